"""best.ckpt and last.ckpt: written whole or not at all, in time, after validations, and when told to stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from msmlff.data.batch import Batch
from msmlff.errors import InputError, MSMLFFError
from msmlff.training.metrics import rank
from msmlff.training.module import ForceFieldModule

BEST, LAST = "best.ckpt", "last.ckpt"


class Interrupted(MSMLFFError):  # noqa: N818 (not an error: the run was told to stop)
    """The run was told to stop and has written last.ckpt."""

    def __init__(self, name: str, step: int) -> None:
        super().__init__(f"stopped by {name} after step {step}")
        self.name = name
        self.step = step


class RunCheckpoints(Checkpoint):
    """Keeps ``best.ckpt`` (best value of the monitored metric) and ``last.ckpt`` in a folder.

    SIGTERM and SIGINT (Ctrl-C) are answered at the end of the running step: last.ckpt is written,
    ``Interrupted`` raised. A second Ctrl-C stops at once.

    Args:
        folder: the checkpoints folder.
        seconds: time between two writes of last.ckpt.
        settings: written into each checkpoint as "settings".
        on_saved: called after each write.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float,
        settings: Mapping[str, Any],
        on_saved: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.seconds = seconds
        self.settings = settings
        self.on_saved = on_saved
        self.best_score = self.best_value = float("inf")  # of best.ckpt: its score, and what decided
        self.best_step = -1
        self.signal: int | None = None
        self._saved = time.monotonic()
        self._handlers: dict[int, Any] = {}

    @property
    def best(self) -> Path:
        return self.folder / BEST

    @property
    def last(self) -> Path:
        return self.folder / LAST

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._saved = time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, ForceFieldModule)
        spec = pl_module.spec
        if trainer.global_step == spec.steps:
            trainer.should_stop = True  # Lightning validates once more, also between two regular validations
        if trainer.global_step % spec.validate_every == 0 or trainer.global_step == spec.steps:
            return  # a validation follows; a state saved before it would lose it
        if self.signal is not None or time.monotonic() - self._saved > self.seconds:
            self._save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ForceFieldModule)
        found = rank(pl_module.val_metrics, pl_module.spec.monitor.removeprefix("val/"))
        if found is not None and found < (self.best_value, self.best_score):
            (self.best_value, self.best_score), self.best_step = found, trainer.global_step
            self._save(trainer, self.best)
        self._save_last(trainer)

    def _save_last(self, trainer: pl.Trainer) -> None:
        self._save(trainer, self.last)
        self._saved = time.monotonic()
        if self.signal is not None:
            raise Interrupted(signal.Signals(self.signal).name, trainer.global_step)

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        temporary = path.with_suffix(".writing")
        try:
            trainer.save_checkpoint(temporary)
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise MSMLFFError(
                f"could not write {path}: {error}. The one before it is kept; make room and continue with "
                f"resume={self.folder.parent}"
            ) from error
        self.on_saved()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["settings"] = dict(self.settings)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore_handlers()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_value": self.best_value, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        missing = self.state_dict().keys() - state_dict.keys()
        if missing:
            raise InputError(
                f"{self.last} is of an earlier version of msmlff, without {', '.join(sorted(missing))}: go "
                "on with that version, or train anew in another folder"
            )
        for name in ("best_score", "best_value", "best_step"):
            setattr(self, name, state_dict[name])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, loaded without unpickling code.

    Raises:
        InputError: where the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: no checkpoint there; resume= takes the folder of a run that has one")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {str(error).splitlines()[0]}). "
            f"Nothing was started; {BEST} of the same folder may be whole: copy it to {LAST} to go "
            f"on from there"
        ) from error
    if "msmlff" not in content:
        raise InputError(f"{path} was not written by msmlff")
    return content
