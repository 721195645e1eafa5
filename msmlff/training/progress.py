"""The progress bar: steps, time left, atoms a second, share of time spent waiting for data, last errors."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import Progress

from msmlff.analysis.tables import step_bar
from msmlff.data.batch import Batch
from msmlff.training.module import ForceFieldModule

HEADER = f"{'step':>8} {'E RMSE':>10} {'F RMSE':>10} {'S RMSE':>10} {'score':>8} {'lr':>9} {'loss':>10}"
UNITS = f"{'':>8} {'meV/atom':>10} {'meV/Å':>10} {'meV/Å³':>10}"


class RunProgress(Callback):
    """Shows the run in the terminal, measures its throughput, and prints a row for each validation.

    Attributes:
        seconds: training time so far, validations and the writing of checkpoints left out.
        waited: of it, seconds in which the step waited for its batch.
        atoms: atoms trained on, with repetition.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.seconds = self.waited = 0.0
        self.atoms = 0
        self._mark = 0.0
        self._bar: Progress | None = None

    def restart_clock(self) -> None:
        """Leave out the time since the last step."""
        self._mark = time.perf_counter()

    @property
    def atoms_per_second(self) -> float:
        return self.atoms / self.seconds if self.seconds > 0 else 0.0

    @property
    def wait_share(self) -> float:
        return self.waited / self.seconds if self.seconds > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "waited": self.waited, "atoms": self.atoms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.waited, self.atoms = (state_dict[k] for k in ("seconds", "waited", "atoms"))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ForceFieldModule)
        self.restart_clock()
        self._stability = pl_module.spec.stability.every is not None
        self.console.print(HEADER + f" {'stable':>7}" * self._stability, style="bold", highlight=False)
        self.console.print(UNITS, style="dim", highlight=False)
        if self.console.is_terminal:
            self._bar = step_bar(self.console)
            self._task = self._bar.add_task(
                "training", total=pl_module.spec.steps, completed=trainer.global_step, rate=""
            )
            self._bar.start()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, idx: int
    ) -> None:
        now = time.perf_counter()
        self.waited += now - self._mark
        self.seconds += now - self._mark
        self._mark = now

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.seconds += now - self._mark
        self._mark = now
        self.atoms += batch.size.atoms
        if self._bar is not None:
            assert isinstance(pl_module, ForceFieldModule)
            loss = pl_module.guard.last
            rate = f"{self.atoms_per_second:,.0f} atoms/s · wait {self.wait_share:.0%} · loss {loss:.4g}"
            self._bar.update(self._task, completed=trainer.global_step, rate=rate)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ForceFieldModule)
        errors = pl_module.val_errors
        cells = [f"{errors[k]:10.2f}" if k in errors else f"{'-':>10}" for k in _RMSE]
        lr, loss = trainer.optimizers[0].param_groups[0]["lr"], pl_module.guard.last
        row = f"{trainer.global_step:8d} {' '.join(cells)} {pl_module.score:8.4f} {lr:9.2e} {loss:10.4g}"
        if self._stability:
            share = pl_module.val_stability.get("stable_share")
            row += f" {'-':>7}" if share is None else f" {share:7.0%}"
        (self._bar.console if self._bar is not None else self.console).print(row, highlight=False)
        self.restart_clock()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


_RMSE = ("energy_rmse", "force_rmse", "stress_rmse")
