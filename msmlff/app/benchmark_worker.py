"""One measurement of ``msmlff benchmark``, in a process of its own: its memory is the measurement's alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read

from msmlff.app.benchmark_systems import nickel
from msmlff.app.runtime import resident_peak_mb
from msmlff.data.batch import Batch
from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models import MACEArchitecture, MSNequIPArchitecture, NequIPArchitecture, Scale, build_model
from msmlff.models.architecture import MessagePassingArchitecture
from msmlff.models.files import load_model
from msmlff.models.import_mace import mace_input, mace_modules
from msmlff.nn.e3nn_import import o3
from msmlff.nn.ops.twice import backward, without_gradients

#: What is measured for each model: ours, then the peer that has the same.
CODES = {"mace": ("msmlff", "mace-torch"), "nequip": ("msmlff", "msmlff-ms", "nequip")}
#: Ours as ``training.compile=graph`` runs it; mace-torch's model converted to cuEquivariance's modules.
GRAPH, CUEQ = "msmlff-graph", "mace-cueq"
TASKS = ("train", "evaluate")


@dataclass(frozen=True)
class Setting:
    """What is measured: system and hyperparameters, the same for all codes.

    Attributes:
        model: "mace", or "nequip", for which ``l_max`` holds for the features, too; ``correlation`` and
            ``hidden_l_max`` then mean nothing.
        short_cutoff: Å, of MS-NequIP ("msmlff-ms"), which has ``channels`` and ``l_max`` below it, and a
            quarter of the channels and l_max 1 up to ``cutoff``.
        nequip_mode: "eager", or "compile" (nequip compiles its model at the first call, which is not timed).
        ours: a model file (model.safetensors of a run) that stands against the peer of these hyperparameters,
            for two models of equal error; "": ours has them, too.
        system: "cluster" (ten benzene molecules), "nickel" (108 atoms, periodic) or a file that ASE reads. Of
            a file of several frames a training step takes ``batch``, evenly spread; else rattled copies.
        atoms: of "nickel", about so many, rattled; 0: the 108.
        cutoff: Å.
        batch: frames of a training step; an evaluation takes one.
        repeats: timed calls in a process.
        device: "cpu" or "cuda".
        tf32: dense products of all codes in TF32, as our training has them on a GPU.
        cueq: mace-torch with cuEquivariance is a further peer.
        graph: our steps as CUDA graphs are measured, too.
    """

    system: str = "cluster"
    cutoff: float = 5.0
    channels: int = 128
    hidden_l_max: int = 1
    l_max: int = 3
    correlation: int = 3
    layers: int = 2
    batch: int = 5
    dtype: str = "float32"
    threads: int = 2
    repeats: int = 3
    device: str = "cpu"
    model: str = "mace"
    short_cutoff: float = 3.5
    nequip_mode: str = "eager"
    ours: str = ""
    atoms: int = 0
    tf32: bool = False
    cueq: bool = False
    graph: bool = False

    @property
    def codes(self) -> tuple[str, ...]:
        """Ours, then the peers."""
        *ours, peer = CODES[self.model]
        first = ("msmlff",) if self.ours else tuple(ours)
        return (*first, *((GRAPH,) if self.graph else ()), peer, *((CUEQ,) if self.cueq else ()))


def load_system(name: str, atoms: int = 0) -> list[Atoms]:
    """The frames of a setting; ``atoms``: about so many of nickel, 0: 108.

    Raises:
        InputError: neither a built-in system nor a file that ASE can read; ``atoms`` of another system.
    """
    if atoms < 0 or (atoms and name != "nickel"):
        raise InputError(f"--atoms {atoms}: write a positive number, and --system nickel")
    if atoms:
        frame = nickel(atoms)
        return [Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)]
    if name == "nickel":
        return [bulk("Ni", "fcc", a=3.52, cubic=True) * (3, 3, 3)]
    if name == "cluster":
        return [_benzene_cluster()]
    try:
        frames = read(name, ":")
    except (OSError, ValueError) as error:
        message = f"--system {name}: write cluster, nickel or a file that ASE reads ({error})"
        raise InputError(message) from error
    assert isinstance(frames, list)
    return frames


def _benzene_cluster() -> Atoms:
    """Ten benzene molecules, 120 atoms, randomly turned, near the density of the liquid."""
    rng = np.random.default_rng(0)
    cluster = Atoms()
    for i in range(10):
        one = molecule("C6H6")
        one.rotate(float(rng.uniform(0, 360)), rng.normal(size=3), center="COM")
        one.translate(5.6 * np.array([i % 2, i // 2 % 2, i // 4]))
        cluster += one
    return cluster


def make_frames(setting: Setting) -> list[Configuration]:
    """The frames of a training step."""
    found = load_system(setting.system, setting.atoms)
    frames = [found[i * len(found) // setting.batch].copy() for i in range(setting.batch)]
    if len(found) < setting.batch:
        for seed, frame in enumerate(frames):
            frame.rattle(0.05, seed=seed)
    return [Configuration(f.numbers, f.positions, f.cell.array, np.array(f.pbc)) for f in frames]


def make_batches(
    setting: Setting, cutoff: float, species: tuple[int, ...] = ()
) -> tuple[Batch, Batch, tuple[int, ...], float]:
    """The batch of a training step, that of an evaluation, the species, the mean number of neighbours."""
    frames = make_frames(setting)
    lists = [neighbor_list(f.positions, f.cell, f.pbc, cutoff) for f in frames]
    numbers = species or tuple(sorted({int(z) for f in frames for z in f.numbers}))
    train = collate(frames, lists, numbers)
    return train, collate(frames[:1], lists[:1], numbers), numbers, train.num_edges / train.num_atoms


def random_model(setting: Setting, code: str, numbers: tuple[int, ...], neighbors: float) -> torch.nn.Module:
    """Ours ("msmlff", "msmlff-graph", "msmlff-ms") or mace-torch's model of these hyperparameters."""
    if code.startswith("msmlff"):
        return _our_model(setting, code, numbers, neighbors)
    model = _their_model(setting, code, numbers, neighbors)
    return to_cuequivariance(model, setting.device) if code == CUEQ else model


def _our_model(setting: Setting, code: str, numbers: tuple[int, ...], neighbors: float) -> torch.nn.Module:
    architecture = _architecture(setting, code)
    zeros = (0.0,) * len(numbers)
    statistics = Statistics((neighbors,) * len(architecture.scales), zeros, 1.0)
    return build_model(architecture, numbers, zeros, statistics)


def _architecture(setting: Setting, code: str) -> MessagePassingArchitecture:
    if setting.model == "mace":
        return MACEArchitecture(
            cutoff=setting.cutoff,
            l_max=setting.l_max,
            channels=setting.channels,
            hidden_l_max=setting.hidden_l_max,
            correlation=setting.correlation,
            layers=setting.layers,
        )
    one = NequIPArchitecture(
        cutoff=setting.cutoff, l_max=setting.l_max, channels=setting.channels, layers=setting.layers
    )
    if code != "msmlff-ms":
        return one
    long = Scale(setting.cutoff, max(1, setting.channels // 4), min(1, setting.l_max), one.radial_mlp)
    return MSNequIPArchitecture(
        scales=(replace(one.scales[0], cutoff=setting.short_cutoff), long),
        channels=setting.channels,
        hidden_l_max=setting.l_max,
        layers=setting.layers,
    )


def _their_model(setting: Setting, code: str, numbers: tuple[int, ...], neighbors: float) -> torch.nn.Module:
    """mace-torch's; its weights of the contraction are as many where cuEquivariance is installed or not."""
    modules: Any = mace_modules()
    hidden = [(setting.channels, (l, (-1) ** l)) for l in range(setting.hidden_l_max + 1)]
    return modules.ScaleShiftMACE(
        r_max=setting.cutoff,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=setting.l_max,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=setting.layers,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=neighbors,
        atomic_numbers=list(numbers),
        correlation=setting.correlation,
        radial_type="bessel",
        use_reduced_cg=code == CUEQ,  # else it depends on what is installed
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )


def to_cuequivariance(model: torch.nn.Module, device: str) -> torch.nn.Module:
    """mace-torch's model with cuEquivariance's modules and the same weights, as its calculator converts one.

    Raises:
        InputError: mace-torch cannot import cuEquivariance, and would go on without it.
    """
    mace_modules()
    from mace.cli.convert_e3nn_cueq import run

    try:
        import cuequivariance_torch  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"cuequivariance_torch cannot be imported ({error}): pip install 'msmlff[cuequivariance]'"
        ) from error
    converted = run(model, device=device)  # there, with fused convolutions on CUDA alone
    if type(converted.products[0].symmetric_contractions).__module__.startswith("mace."):
        raise InputError("mace-torch left cuEquivariance out of its model; please report this environment")
    assert isinstance(converted, torch.nn.Module)
    return converted


def _predictor(
    code: str, model: torch.nn.Module, batch: Batch, species: int, training: bool
) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """A call that gives energies and forces."""
    if code.startswith("msmlff"):

        def ours() -> tuple[torch.Tensor, torch.Tensor]:
            prediction = model(batch, create_graph=training)
            return prediction.energy, prediction.forces

        return ours
    data = mace_input(batch, species, next(model.parameters()).dtype)

    def theirs() -> tuple[torch.Tensor, torch.Tensor]:
        out = model(dict(data), training=training, compute_force=True)
        return out["energy"], out["forces"]

    return theirs


def measure(setting: Setting, code: str, task: str) -> dict[str, Any]:
    """Milliseconds of each timed call, peak memory in MB (resident; on CUDA: allocated there), and what was
    measured; or why it was not, as "skipped".
    """
    torch.set_num_threads(setting.threads)
    torch.set_default_dtype(getattr(torch, setting.dtype))
    torch.set_float32_matmul_precision("high" if setting.tf32 else "highest")
    torch.manual_seed(0)
    model: torch.nn.Module
    if setting.ours and code.startswith("msmlff"):
        model = trained = load_model(setting.ours, getattr(torch, setting.dtype))
        train, single, numbers, neighbors = make_batches(setting, trained.cutoff, trained.atomic_numbers)
    else:
        train, single, numbers, neighbors = make_batches(setting, setting.cutoff)
        model = random_model(setting, code, numbers, neighbors)
    model = model.to(setting.device).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    batch = (train if task == "train" else single).to(setting.device)
    for parameter in parameters:
        parameter.requires_grad_(task == "train")
    call: Callable[[], object]
    calls = None
    if code == GRAPH:
        call, calls = _captured(setting.device, model, parameters, batch, task)
    else:
        predict = _predictor(code, model, batch, len(numbers), task == "train")
        call = _training_step(code, predict, parameters, batch) if task == "train" else predict
    for _ in range(3 if setting.device == "cuda" else 1):  # the second and third replay are checked
        call()
    if calls is not None and calls.failed:
        return {"skipped": f"not captured: {calls.failed}"}
    on_gpu = setting.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()  # without the comparison of what was captured
    times = _timed(call, setting)
    return {
        "milliseconds": times,
        "peak_mb": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else resident_peak_mb(),
        "atoms": batch.num_atoms,
        "edges_per_atom": neighbors,
        "parameters": sum(p.numel() for p in parameters),
    }


def _timed(call: Callable[[], object], setting: Setting) -> list[float]:
    """Milliseconds of each call."""
    wait = torch.cuda.synchronize if setting.device == "cuda" else (lambda: None)
    times = []
    for _ in range(setting.repeats):
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def _training_step(
    code: str,
    predict: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    parameters: list[torch.nn.Parameter],
    batch: Batch,
) -> Callable[[], None]:
    """Loss on energies and random forces, its gradient, a step of AMSGrad."""
    optimizer = torch.optim.Adam(parameters, lr=1e-3, amsgrad=True)
    target = torch.randn_like(batch.positions)
    atoms = batch.num_atoms / batch.num_frames

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        energy, forces = predict()
        loss = (energy / atoms).pow(2).mean() + (forces - target).pow(2).mean()
        if code.startswith("msmlff"):
            backward(loss, parameters)  # as our training does; mace-torch's runs loss.backward()
        else:
            loss.backward()
        optimizer.step()

    return step


def _captured(
    device: str, model: Any, parameters: list[torch.nn.Parameter], batch: Batch, task: str
) -> tuple[Callable[[], object], Any]:
    """The same on the padded batch, captured as ``training.compile=graph`` does; and what captures."""
    from msmlff.training.captured import PREDICTION, STEP, captured_calls
    from msmlff.training.data_module import Preparation

    calls = captured_calls("graph", device, model)
    assert calls is not None
    padded = Preparation.of(model, padded=True)(batch.to("cpu")).to(device)
    frames, atoms = batch.num_frames, batch.num_atoms  # what follows is padding
    sizes = [p.numel() for p in parameters]
    target = torch.randn_like(batch.positions)
    optimizer = torch.optim.Adam(parameters, lr=1e-3, amsgrad=True)

    def evaluation(given: Batch) -> list[torch.Tensor]:
        found = model(given, create_graph=False)
        return [found.energy, found.forces]

    def gradient(given: Batch) -> list[torch.Tensor]:
        found = model(given, create_graph=True)
        energy, forces = found.energy[:frames], found.forces[:atoms]
        loss = (energy / (atoms / frames)).pow(2).mean() + (forces - target).pow(2).mean()
        with without_gradients("geometry"):
            parts = torch.autograd.grad(loss, parameters, materialize_grads=True)
        return [loss.detach(), torch.cat([part.flatten() for part in parts])]

    def step() -> None:
        _, flat = calls(gradient, padded, (), STEP)
        for parameter, part in zip(parameters, flat.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        optimizer.step()

    if task == "train":
        return step, calls
    return lambda: calls(evaluation, padded, (), (PREDICTION[0], PREDICTION[2])), calls


def main() -> None:
    """Reads {"setting", "code", "task"} as JSON from standard input, prints the result as JSON."""
    request = json.load(sys.stdin)
    print(json.dumps(measure(Setting(**request["setting"]), request["code"], request["task"])))


def request(setting: Setting, code: str, task: str) -> dict[str, Any]:
    """What ``main`` reads."""
    return {"setting": asdict(setting), "code": code, "task": task}


def nequip_request(setting: Setting, task: str) -> dict[str, Any]:
    """What ``benchmark_nequip`` reads: the frames as well, for it cannot import what makes them."""
    keys = ("numbers", "positions", "cell", "pbc")
    frames = [{key: getattr(f, key).tolist() for key in keys} for f in make_frames(setting)]
    return {"setting": asdict(setting), "task": task, "frames": frames}


if __name__ == "__main__":
    main()
