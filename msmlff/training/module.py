"""The LightningModule: one training step, one validation, and the state that makes a resume complete."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from msmlff.data.batch import Batch
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.nn.ops.twice import backward
from msmlff.training.divergence import DivergenceGuard
from msmlff.training.ema import averaged_copy, update_average
from msmlff.training.loss import TARGETS, Loss
from msmlff.training.metrics import ErrorSums, relative_score
from msmlff.training.optim import build_optimizer, build_schedule, warmup_factor
from msmlff.training.specs import TrainingSpec


class ForceFieldModule(pl.LightningModule):
    """Trains a ForceField.

    Args:
        model: the model, raw weights; validated and shipped are its averaged weights, ``eval_model``.
        spec: the training run.
        available: labels that the training frames carry, of "energy", "forces", "stress".
        spread: standard deviation of each label of the score, {"energy_rmse": meV/atom, "force_rmse": meV/Å,
            ...}; targets that are not trained, and labels that do not vary, do not count.
        describe: names frames by their index in the training store, for error messages.

    Raises:
        InputError: for a loss that is refused, or a score to which nothing counts.
    """

    def __init__(
        self,
        model: ForceField,
        spec: TrainingSpec,
        available: tuple[str, ...],
        spread: Mapping[str, float],
        describe: Callable[[list[int]], str],
    ) -> None:
        super().__init__()
        self.model = model
        self.ema = averaged_copy(model) if spec.ema_decay is not None else None
        self.spec = spec
        self.available = available
        self.loss = Loss(spec.loss, available)
        self.spread = {
            name: value
            for name, value in spread.items()
            if value > 0 and self.loss.uses({"force": "forces"}.get(t := name.split("_")[0], t))
        }
        if not self.spread:
            raise InputError(
                "no validation frame carries a label that is trained on and that varies among the training "
                f"frames ({', '.join(t for t in TARGETS if self.loss.uses(t))}): validate on frames with "
                "these labels"
            )
        self.score = float("inf")
        self.plateau: ReduceLROnPlateau | None = None
        self.val_sums = ErrorSums(tuple(t for t in TARGETS if t in available))
        self.val_errors: dict[str, float] = {}
        self.guard = DivergenceGuard(spec.divergence_factor, describe, spec.optimizer.lr)
        self._rng: dict[str, Any] | None = None

    @property
    def eval_model(self) -> nn.Module:
        """The averaged model where there is one, else the raw one."""
        return self.ema if self.ema is not None else self.model

    @property
    def progress(self) -> float:
        """Share of the steps done, 0 to 1."""
        return min(1.0, self.global_step / self.spec.steps)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        prediction = self.model(
            batch, forces=self._needs_forces, stress=self.loss.uses("stress"), create_graph=True
        )
        parts = self.loss(prediction, batch, self.progress)
        if self.loss.weights(self.progress) != self.loss.weights((self.global_step - 1) / self.spec.steps):
            self.guard.restart()
        self.guard.add(self.global_step, batch, parts["loss"].detach())
        for name, value in parts.items():
            self.log(f"train/{name}", value.detach(), batch_size=batch.num_frames)
        self.log("lr", self.optimizers().param_groups[0]["lr"], batch_size=batch.num_frames)  # type: ignore[union-attr]
        return parts["loss"]

    @property
    def _needs_forces(self) -> bool:
        return self.loss.uses("forces") or self.loss.uses("stress")

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients of the weights alone: those of positions and edges would cost a sixth of the step."""
        backward(loss, self.model.parameters())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step: warm-up of a plateau schedule before it, the averaged weights after it."""
        if self.plateau is not None and self.global_step < self.spec.schedule.warmup_steps:
            for group in self.optimizers().param_groups:  # type: ignore[union-attr]
                group["lr"] = self.spec.optimizer.lr * warmup_factor(self.global_step, self.spec.schedule)
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None and self.spec.ema_decay is not None:
            update_average(self.ema, self.model, self.global_step, self.spec.ema_decay)

    def on_validation_epoch_start(self) -> None:
        self.guard.check()
        self.val_sums.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with torch.enable_grad():  # forces are a gradient of the energy
            prediction = self.eval_model(
                batch, forces=True, stress="stress" in self.available, create_graph=False
            )
        self.val_sums.update(prediction, batch)

    def on_validation_epoch_end(self) -> None:
        self.val_errors = self.val_sums.compute()
        self.score = relative_score(self.val_errors, self.spread)
        if self.plateau is not None and self.global_step >= self.spec.schedule.warmup_steps:
            self.plateau.step(self.score)
        self.log_dict({f"val/{name}": value for name, value in self.val_errors.items()})
        self.log("val/score", self.score)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.model, self.spec.optimizer)
        schedule = build_schedule(optimizer, self.spec.schedule, self.spec.steps)
        if isinstance(schedule, ReduceLROnPlateau):
            # stepped and saved here: Lightning would step it after the checkpoint of the same validation
            self.plateau = schedule
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        if self._rng is not None:
            set_random_state(self._rng)
            self._rng = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.guard.check()
        checkpoint["msmlff"] = {
            "rng": random_state(self.device.type),
            "plateau": self.plateau.state_dict() if self.plateau is not None else None,
            "guard": self.guard.state_dict(),
            "score": self.score,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["msmlff"]
        self._rng = state["rng"]
        self._plateau_state = state["plateau"]
        self.guard.load_state_dict(state["guard"])
        self.score = state["score"]

    def on_fit_start(self) -> None:
        state = getattr(self, "_plateau_state", None)
        if self.plateau is not None and state is not None:
            self.plateau.load_state_dict(state)


def random_state(device: str) -> dict[str, Any]:
    """The state of every generator a step may draw from, in types that load without unpickling code."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if device == "cuda" else [],
        "numpy": [str(name), [int(k) for k in keys], int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what ``random_state`` returned."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0].cpu())
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
