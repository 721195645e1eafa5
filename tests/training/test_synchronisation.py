"""No training step reads a number off the device: on a GPU it would wait for all kernels before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from msmlff.data.packing import BatchBudget
from msmlff.models import MSMACE
from msmlff.nn import ops
from msmlff.training.data_module import FrameDataModule, FrameSet, Preparation
from msmlff.training.divergence import LAG_ON_GPU
from msmlff.training.fit import Run, build_trainer
from msmlff.training.module import ForceFieldModule
from msmlff.training.optim import ScheduleSpec
from msmlff.training.progress import RunProgress
from msmlff.training.specs import TrainingSpec

Sets = tuple[FrameSet, FrameSet]
MakeModel = Callable[..., MSMACE]

SPEC = TrainingSpec(
    steps=12,
    validations=1,
    batch=BatchBudget(frames=5),
    schedule=ScheduleSpec(warmup_steps=0),
    log_every=100,
)
FIRST, LAST = 3, 10  # steps that are watched: the state of the optimiser is there, no validation yet

METHODS = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__"}
#: Operators whose result has a size that depends on numbers.
OPERATORS = {"_local_scalar_dense", "nonzero", "bincount", "masked_select", "_unique2", "unique_consecutive"}


class _Methods(TorchFunctionMode):
    """Notes methods of tensors that read numbers, but of those in ``allowed``."""

    def __init__(self, found: list[str], allowed: set[int]) -> None:
        super().__init__()
        self.found, self.allowed = found, allowed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in METHODS and args[0].data_ptr() not in self.allowed:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """The same for operators."""

    def __init__(self, found: list[str], allowed: set[int]) -> None:
        super().__init__()
        self.found, self.allowed = found, allowed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        sizes_unknown = name == "repeat_interleave" and kwargs.get("output_size") is None
        mask = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if (name in OPERATORS and args[0].data_ptr() not in self.allowed) or sizes_unknown or mask:
            self.found.append(name)
        return func(*args, **kwargs)


class Watch(pl.Callback):
    """Notes what the watched steps read, from the beginning of a step to its end."""

    def __init__(self, lag: int) -> None:
        self.lag = lag
        self.found: list[str] = []
        self.steps = 0
        self._stack = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, module: ForceFieldModule) -> None:
        module.guard.lag = self.lag

    def on_train_batch_start(self, trainer: pl.Trainer, module: ForceFieldModule, *_: Any) -> None:
        if FIRST <= trainer.global_step < LAST:
            # Adam's counters of steps are on the host, on a GPU, too
            state = trainer.optimizers[0].state.values()
            allowed = {s["step"].data_ptr() for s in state}
            self._stack = ExitStack()
            for mode in (_Methods, _Operators):
                self._stack.enter_context(mode(self.found, allowed))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.steps += 1
        self._stack.close()


def train(
    sets: Sets, model: MSMACE, spec: TrainingSpec, callbacks: list[Any], device: str, prepared: bool
) -> None:
    available = ("energy", "forces", "stress")
    spread = {"energy_rmse": 1.0, "force_rmse": 1.0, "stress_rmse": 1.0}
    module = ForceFieldModule(model, spec, available, spread, str)
    prepare = Preparation.of(model, padded=False) if prepared else None
    pin = device == "cuda"
    data = FrameDataModule(*sets, model.atomic_numbers, spec, seed=0, pin_memory=pin, prepare=prepare)
    run = Run(Path("unused"), device=device, console=Console(quiet=True))
    trainer = build_trainer(replace(spec), run, [RunProgress(run.console), *callbacks])
    trainer.fit(module, data)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("prepared", "lag", "read"),
    [
        (True, LAG_ON_GPU, set()),
        (True, 1, {"tolist"}),
        (False, LAG_ON_GPU, {"nonzero", "bincount", "tolist"}),
    ],
    ids=["as on a GPU", "the loss of every step is read", "the model reads sizes"],
)
def test_a_step_reads_nothing(
    frame_sets: Sets,
    make_model: MakeModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepared: bool,
    lag: int,
    read: set[str],
) -> None:
    """Where batches are prepared and losses read as on a GPU; what it reads where they are not is seen."""
    monkeypatch.chdir(tmp_path)
    watch = Watch(lag)
    with ops.use_backend("reference"):
        train(frame_sets, make_model(), SPEC, [watch], "cpu", prepared)
    assert watch.steps == SPEC.steps
    assert set(watch.found) == read


class ErrorOnSync(pl.Callback):
    """Makes PyTorch raise an error where a watched step waits for the GPU, its batch's way there included."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if FIRST <= trainer.global_step < LAST else "default")


@contextmanager
def sync_mode_put_back() -> Iterator[None]:
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_step_on_a_gpu_waits_for_nothing(
    frame_sets: Sets, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with sync_mode_put_back():
        train(frame_sets, make_model(), SPEC, [ErrorOnSync()], "cuda", True)
