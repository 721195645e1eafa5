"""One measurement of the nequip package for ``msmlff benchmark --model nequip``.

It is run by the Python of nequip's own environment (nequip wants another e3nn than mace-torch), so nothing
of this package is imported: what is measured comes as JSON on standard input, the result goes to standard
output.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from ase import Atoms
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state

Data = dict[str, torch.Tensor]


def make_data(setting: dict[str, Any], frames: list[dict[str, Any]]) -> tuple[list[Data], list[str], float]:
    """The frames as nequip takes them, the names of the species, the mean number of neighbours."""
    atoms = [Atoms(f["numbers"], f["positions"], cell=f["cell"], pbc=f["pbc"]) for f in frames]
    names = sorted(set(atoms[0].get_chemical_symbols()))
    mapper, edges = ChemicalSpeciesToAtomTypeMapper(names), NeighborListTransform(r_max=setting["cutoff"])
    data = [edges(mapper(from_ase(a))) for a in atoms]
    neighbors = sum(d["edge_index"].shape[1] for d in data) / sum(len(a) for a in atoms)
    return data, names, neighbors


def make_model(setting: dict[str, Any], names: list[str], neighbors: float) -> torch.nn.Module:
    """nequip's model, what the setting does not say as nequip has it."""
    return NequIPGNNModel(
        seed=0,
        model_dtype=setting["dtype"],
        type_names=names,
        r_max=setting["cutoff"],
        num_layers=setting["layers"],
        l_max=setting["l_max"],
        parity=False,
        num_features=setting["channels"],
        avg_num_neighbors=neighbors,
        per_type_energy_scales=1.0,
        per_type_energy_shifts=dict.fromkeys(names, 0.0),
        compile_mode=setting["nequip_mode"],
    ).to(setting["device"])


def measure(setting: dict[str, Any], task: str, frames: list[dict[str, Any]]) -> dict[str, Any]:
    """As ``benchmark_worker.measure``."""
    torch.set_num_threads(setting["threads"])
    set_global_state()
    torch.manual_seed(0)
    data, names, neighbors = make_data(setting, frames)
    model = make_model(setting, names, neighbors)
    parameters = [p for p in model.parameters() if p.requires_grad]
    training = task == "train"
    batch = AtomicDataDict.batched_from_list(data if training else data[:1])
    batch = {k: v.to(setting["device"]) for k, v in batch.items()}
    call: Callable[[], object] = lambda: model(dict(batch))  # noqa: E731
    if training:
        call = _training_step(model.train(), parameters, batch)
    else:
        model.eval().requires_grad_(False)
    call()
    times = []
    for _ in range(setting["repeats"]):
        _synchronize(setting["device"])
        start = time.perf_counter()
        call()
        _synchronize(setting["device"])
        times.append(1e3 * (time.perf_counter() - start))
    on_gpu = setting["device"] == "cuda"
    return {
        "milliseconds": times,
        "peak_mb": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else _resident_peak_mb(),
        "atoms": len(batch["pos"]),
        "edges_per_atom": neighbors,
        "parameters": sum(p.numel() for p in parameters),
    }


def _training_step(
    model: torch.nn.Module, parameters: list[torch.nn.Parameter], batch: Data
) -> Callable[[], None]:
    """Loss on energies and random forces, its gradient, a step of AMSGrad: that of ``benchmark_worker``."""
    optimizer = torch.optim.Adam(parameters, lr=1e-3, amsgrad=True)
    target = torch.randn_like(batch["pos"])
    atoms = len(target) / len(batch["num_atoms"])

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        out = model(dict(batch))
        loss = (out["total_energy"] / atoms).pow(2).mean() + (out["forces"] - target).pow(2).mean()
        loss.backward()
        optimizer.step()

    return step


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _resident_peak_mb() -> float:
    """Largest resident memory of the process in MB; getrusage would count the one that started it, too."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**10
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    """{"setting", "task", "frames"} from standard input; the result, as JSON, is the last line printed."""
    print(json.dumps(measure(**json.load(sys.stdin))))


if __name__ == "__main__":
    main()
