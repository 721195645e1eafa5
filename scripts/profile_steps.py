"""Time of training steps and of evaluations of small systems, which are bound by launches and Python.

    python scripts/profile_steps.py [--device cpu --threads 1 --models mace,msmace --systems 1x20,2x32,5x50]

A system is FRAMESxATOMS of random hydrogen at 1 g/cm³. For each: the operators PyTorch calls in a step, the
time of the step, of the step on the padded batch, and, on a GPU, of its replay as a CUDA graph
(``training.compile=graph``). A step is energy, forces, loss and the gradient by the weights, without the
optimiser. Times are the least of the repeats: on the CPU of processor time over the threads, so that other
work on the machine hardly counts; on a GPU from start to end.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from msmlff.data.batch import Batch
from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.models import MACE, MSMACE, ForceField, MACEArchitecture, MSMACEArchitecture
from msmlff.nn.ops.twice import without_gradients
from msmlff.training.captured import CudaGraph
from msmlff.training.data_module import Preparation

#: Atoms per Å³, of hydrogen at 1 g/cm³.
DENSITY = 0.6
SCALES = (
    {"cutoff": 2.5, "channels": 32, "l_max": 3, "radial_mlp": [16, 16, 8]},
    {"cutoff": 3.5, "channels": 8, "l_max": 1, "radial_mlp": [16, 8]},
)


class Count(TorchDispatchMode):
    """Counts calls of PyTorch's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def make_model(name: str) -> ForceField:
    """Of the size of conf/model."""
    torch.manual_seed(0)
    if name == "mace":
        return MACE(
            (1,), {1: 0.0}, MACEArchitecture(cutoff=3.5, l_max=3, channels=16, radial_mlp=(16, 16, 8))
        )
    return MSMACE((1,), {1: 0.0}, MSMACEArchitecture(scales=SCALES, channels=32, hidden_l_max=1))


def make_batch(frames: int, atoms: int, cutoff: float) -> Batch:
    """Random hydrogen in periodic boxes, no pair closer than 0.7 Å."""
    rng, box = np.random.default_rng(0), (atoms / DENSITY) ** (1 / 3)
    made = []
    for _ in range(frames):
        chosen = [rng.uniform(0, box, 3)]
        while len(chosen) < atoms:
            trial = rng.uniform(0, box, 3)
            apart = np.array(chosen) - trial
            if np.linalg.norm(apart - box * np.round(apart / box), axis=1).min() > 0.7:
                chosen.append(trial)
        made.append(
            Configuration(np.ones(atoms, np.int64), np.array(chosen), np.eye(3) * box, np.ones(3, dtype=bool))
        )
    return collate(made, [neighbor_list(f.positions, f.cell, f.pbc, cutoff) for f in made], (1,))


def step(model: ForceField, batch: Batch) -> list[Tensor]:
    """The gradient of a loss of energies and forces by all weights, and the loss."""
    found = model(batch, create_graph=True)
    loss = found.energy.square().mean() + found.forces.square().mean()
    with without_gradients("geometry"):
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [loss.detach(), *(g for g in gradients if g is not None)]


def evaluation(model: ForceField, batch: Batch) -> list[Tensor]:
    """Energy and forces."""
    found = model(batch, create_graph=False)
    return [found.energy, found.forces]


def milliseconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """Least time of a call."""
    times = []
    for _ in range(3 + repeats):
        start = time.process_time() if device == "cpu" else time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append((time.process_time() if device == "cpu" else time.perf_counter()) - start)
    return 1e3 * min(times[3:]) / (torch.get_num_threads() if device == "cpu" else 1)


def main() -> None:
    """Prints the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--models", default="mace,msmace")
    parser.add_argument("--systems", default="1x20,2x32,5x50")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    on_gpu = options.device == "cuda"
    print("| model | system | edges, padded | task | operators | ms | padded ms | replayed ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.models.split(","):
        model = make_model(name).train().to(options.device)
        for system in options.systems.split(","):
            plain = make_batch(*map(int, system.split("x")), model.cutoff)
            padded = Preparation.of(model, padded=True)(plain).to(options.device)
            batch = plain.to(options.device)
            for task in (step, evaluation):
                function = partial(task, model)
                with Count() as count:
                    function(batch)
                works = [partial(function, batch), partial(function, padded)]
                if on_gpu:
                    pool = torch.cuda.graph_pool_handle()
                    works.append(partial(CudaGraph(function, padded, pool), padded))
                times = [f"{milliseconds(w, options.repeats, options.device):.2f}" for w in works]
                edges = f"{batch.num_edges}, {padded.num_edges}"
                times += [] if on_gpu else ["-"]
                print(
                    f"| {name} | {system} | {edges} | {task.__name__} | {count.calls} | {' | '.join(times)} |"
                )


if __name__ == "__main__":
    main()
