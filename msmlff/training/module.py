"""The LightningModule: one training step, one validation, and the state that makes a resume complete."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from msmlff.data.batch import Batch
from msmlff.errors import InputError
from msmlff.models.base import ForceField, Prediction
from msmlff.nn.ops.twice import backward, without_gradients
from msmlff.training.captured import PREDICTION, STEP, Captured
from msmlff.training.divergence import LAG_ON_GPU, DivergenceGuard
from msmlff.training.ema import averaged_copy, update_average
from msmlff.training.loss import TARGETS, Loss
from msmlff.training.metrics import SCORE, ErrorSums, relative_score
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
        captured: calls steps and evaluations; None: they are computed as they are written.

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
        captured: Captured | None = None,
    ) -> None:
        super().__init__()
        self.captured = captured
        self._gradient: tuple[Tensor, list[nn.Parameter]] | None = None
        self._learning: dict[tuple[float, ...], list[nn.Parameter]] = {}
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
        self.row: dict[str, Tensor | float] = {}  # of this step for the loggers, where it is logged
        self.score = float("inf")
        self.plateau: ReduceLROnPlateau | None = None
        self.val_sums = ErrorSums(tuple(t for t in TARGETS if t in available))
        self.val_errors: dict[str, float] = {}
        self.val_stability: dict[str, float] = {}  # of this validation, where there was a check
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
        parts = self._losses(batch)
        if self.loss.weights(self.progress) != self.loss.weights((self.global_step - 1) / self.spec.steps):
            self.guard.restart()
        self.guard.add(self.global_step, batch, parts["loss"].detach())
        self.row = {}
        if (self.global_step + 1) % self.spec.log_every == 0:  # no other step's values get into a log
            self.row = {f"train/{name}": value.detach() for name, value in parts.items()}
            self.row["lr"] = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        return parts["loss"]

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and its parts; where the step is captured, it leaves the weights' gradients, too."""
        if self.captured is None:
            return self._parts(batch, self.progress)
        weights = self.loss.weights(self.progress)
        names = [*(t for t in TARGETS if weights[t] > 0), "loss"]
        key = tuple(weights.values())
        values, gradient = self.captured(partial(self._step, self.progress, key), batch, key, STEP)
        self._gradient = gradient, self._learning[key]
        return dict(zip(names, values.clone(), strict=True))

    def _step(self, progress: float, key: tuple[float, ...], batch: Batch) -> list[Tensor]:
        """The loss' parts, in float64; the gradient by all weights that have one, one behind the other."""
        parts = self._parts(batch, progress)
        weights = [p for p in self.model.parameters() if p.requires_grad]
        with without_gradients("geometry"):
            gradients = torch.autograd.grad(parts["loss"], weights, allow_unused=True)
        self._learning[key] = [p for p, g in zip(weights, gradients, strict=True) if g is not None]
        flat = torch.cat([g.flatten() for g in gradients if g is not None])
        return [torch.stack(list(parts.values())).detach(), flat]

    def _parts(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        prediction = self.model(
            batch, forces=self._needs_forces, stress=self.loss.uses("stress"), create_graph=True
        )
        return self.loss(prediction, batch, progress)

    @property
    def _needs_forces(self) -> bool:
        return self.loss.uses("forces") or self.loss.uses("stress")

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients of the weights alone: those of positions and edges would cost a sixth of the step."""
        if self._gradient is None:
            backward(loss, self.model.parameters())
            return
        gradient, weights = self._gradient
        for p, part in zip(weights, gradient.split([p.numel() for p in weights]), strict=True):
            p.grad = part.view_as(p)

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
        self.val_stability = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with torch.enable_grad():  # forces are a gradient of the energy
            prediction = self._prediction(batch, stress="stress" in self.available)
        self.val_sums.update(prediction, batch)

    def _prediction(self, batch: Batch, stress: bool) -> Prediction:
        def evaluate(given: Batch) -> list[Tensor]:
            found = self.eval_model(given, forces=True, stress=stress, create_graph=False)
            return [
                t for t in (found.energy, found.atomic_energies, found.forces, found.stress) if t is not None
            ]

        if self.captured is None:
            return Prediction(*evaluate(batch))
        magnitudes = PREDICTION if stress else PREDICTION[:-1]
        return Prediction(*self.captured(evaluate, batch, "evaluation", magnitudes))

    @property
    def val_metrics(self) -> dict[str, float]:
        """All of the last validation, by their names without "val/"."""
        return {**self.val_errors, **self.val_stability, SCORE: self.score}

    def on_validation_epoch_end(self) -> None:
        self.val_errors = self.val_sums.compute()
        self.score = relative_score(self.val_errors, self.spread)
        if self.plateau is not None and self.global_step >= self.spec.schedule.warmup_steps:
            self.plateau.step(self.score)
        self.log_dict({f"val/{name}": value for name, value in self.val_errors.items()})
        self.log(f"val/{SCORE}", self.score)

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
        self.guard.lag = LAG_ON_GPU if self.device.type == "cuda" else 1
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
