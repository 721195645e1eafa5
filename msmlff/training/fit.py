"""One training run: from frames and a model to best weights, resumable at any step."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers.logger import Logger
from rich.console import Console

from msmlff.data.configuration import Configuration
from msmlff.errors import DivergenceError, InputError
from msmlff.models.base import ForceField
from msmlff.training.captured import captured_calls
from msmlff.training.checkpoints import RunCheckpoints, read_checkpoint
from msmlff.training.data_module import FrameDataModule, FrameSet, Preparation
from msmlff.training.loss import check_groups
from msmlff.training.metrics import NAMES, SCORE
from msmlff.training.module import ForceFieldModule
from msmlff.training.progress import RunProgress
from msmlff.training.specs import TrainingSpec
from msmlff.training.step_log import StepLog

QUIET = (
    ".*does not have many workers.*",
    ".*dataloader is not resumable.*",
    ".*number of training batches.*",
    ".*in eval mode at the start of training.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*save a checkpoint.*",
    ".*`tensorboardX` has been removed.*",
)


@dataclass(frozen=True)
class Run:
    """Where and how a run trains.

    Attributes:
        folder: the run folder; checkpoints go to ``folder/checkpoints``.
        seed: of the batch order.
        device: "auto" (cuda where there is a GPU), "cpu" or "cuda".
        resume: continue from ``checkpoints/last.ckpt``.
        settings: kept in the checkpoints, for the caller to compare when it resumes.
        loggers: Lightning loggers.
        callbacks: further Lightning callbacks.
        console: where progress is shown.
    """

    folder: Path
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    loggers: Sequence[Logger] = ()
    callbacks: Sequence[Callback] = ()
    console: Console | None = None


@dataclass(frozen=True)
class FitResult:
    """What a run leaves: the model with its best weights and the run's figures."""

    model: ForceField
    best_step: int
    best_score: float
    steps: int
    stopped_early: bool
    figures: dict[str, float] = field(default_factory=dict)


def available_labels(frames: Sequence[Configuration]) -> tuple[str, ...]:
    """Which of energy, forces, stress occur at least once in the frames."""
    found = {"energy": False, "forces": False, "stress": False}
    for i in range(len(frames)):
        frame = frames[i]
        found["energy"] |= bool(np.isfinite(frame.energy))
        found["forces"] |= frame.forces is not None and bool(np.isfinite(frame.forces).any())
        found["stress"] |= frame.stress is not None and bool(np.isfinite(frame.stress).any())
        if all(found.values()):
            break
    return tuple(name for name, there in found.items() if there)


def e0_table(model: ForceField) -> dict[int, float]:
    """eV, energy of the isolated atom by atomic number."""
    return dict(zip(model.atomic_numbers, model.e0s, strict=True))


def label_spread(frames: Sequence[Configuration], e0s: dict[int, float]) -> dict[str, float]:
    """Spread of each label: the error of the trivial predictor, in the units of ``ErrorSums.compute``.

    Energies: standard deviation of (energy - sum E0) per atom, meV/atom. Forces: RMS component, meV/Å.
    Stress: standard deviation of the components about their means, meV/Å³.
    """
    energies: list[float] = []
    stresses: list[np.ndarray] = []
    squares, count = 0.0, 0
    for i in range(len(frames)):
        frame = frames[i]
        if np.isfinite(frame.energy):
            energies.append((frame.energy - sum(e0s[int(z)] for z in frame.numbers)) / len(frame))
        if frame.forces is not None:
            finite = frame.forces[np.isfinite(frame.forces)]
            squares, count = squares + float((finite**2).sum()), count + finite.size
        if frame.stress is not None and np.isfinite(frame.stress).all():
            stresses.append(frame.stress)
    spread = {}
    if energies:
        spread["energy_rmse"] = 1000 * float(np.std(energies))
    if count:
        spread["force_rmse"] = 1000 * (squares / count) ** 0.5
    if stresses:
        spread["stress_rmse"] = 1000 * float(np.sqrt(np.var(np.stack(stresses), axis=0).mean()))
    return spread


def fit(model: ForceField, train: FrameSet, val: FrameSet, spec: TrainingSpec, run: Run) -> FitResult:
    """Train ``model`` on ``train``, watched on ``val``.

    Args:
        model: initialised model; its raw weights are trained in place.
        train, val: frames with neighbour lists at ``model.cutoff``.
        spec: steps, batches, loss, optimiser, schedule.
        run: folder, seed, device, resume.

    Returns:
        A FitResult whose model carries the best averaged weights.

    Raises:
        InputError: no frames, no validation label that is trained on, or a checkpoint that is missing,
            damaged or of an earlier version.
        DivergenceError: the loss left the road, or no validation error was finite.
        Interrupted: SIGTERM or Ctrl-C; checkpoints/last.ckpt is written.
    """
    if len(train) == 0 or len(val) == 0:
        raise InputError("training and validation both need at least one frame")
    if run.device == "auto":
        run = replace(run, device="cuda" if torch.cuda.is_available() else "cpu")
    check_groups(spec.loss.group_weights, train.frames.group.tolist())
    progress = RunProgress(run.console)
    checkpoints = RunCheckpoints(
        run.folder / "checkpoints", spec.checkpoint_seconds, run.settings, progress.restart_clock
    )
    start_step = int(read_checkpoint(checkpoints.last)["global_step"]) if run.resume else 0
    module, data = _module_and_data(model, train, val, spec, run, start_step)
    callbacks: list[Any] = [progress, *run.callbacks, StepLog()]
    if spec.stability.every is not None:
        from msmlff.training.stability import StabilityCheck  # the engine of the dynamics

        callbacks.append(StabilityCheck(val.frames, spec.stability, run.seed))
    if spec.early_stopping is not None:
        callbacks.append(StopEarly("val/score", patience=spec.early_stopping, mode="min", check_finite=False))
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its banners
    trainer = build_trainer(spec, run, [*callbacks, checkpoints])
    with warnings.catch_warnings():
        for message in QUIET:
            warnings.filterwarnings("ignore", message)
        trainer.fit(module, data, ckpt_path=str(checkpoints.last) if run.resume else None, weights_only=True)
    if checkpoints.best_step < 0:
        raise DivergenceError(
            f"{run.folder}: no validation gave finite errors, so there are no best weights; look at the "
            f"validation frames, then lower training.optimizer.lr (now {spec.optimizer.lr:g})"
        )
    best = load_weights(module, checkpoints.best)
    figures = {
        "seconds_training": progress.seconds,
        "atoms_per_second": progress.atoms_per_second,
        "data_wait_share": progress.wait_share,
        "epochs": epochs_done(data, trainer.global_step),
    }
    return FitResult(
        best, checkpoints.best_step, checkpoints.best_score, trainer.global_step,
        stopped_early=trainer.global_step < spec.steps, figures=figures,
    )  # fmt: skip


def _module_and_data(
    model: ForceField, train: FrameSet, val: FrameSet, spec: TrainingSpec, run: Run, start_step: int
) -> tuple[ForceFieldModule, FrameDataModule]:
    spread = label_spread(train.frames, e0_table(model))
    captured = captured_calls(spec.compile, run.device, model)
    module = ForceFieldModule(
        model,
        spec,
        available_labels(train.frames),
        {
            name: spread[name]
            for name in (f"{NAMES[t]}_rmse" for t in available_labels(val.frames))
            if name in spread
        },
        lambda ids: ", ".join(train.frames[i].source or f"frame {i}" for i in ids),
        captured,
    )
    on_gpu, padded = run.device == "cuda", captured is not None
    data = FrameDataModule(
        train,
        val,
        model.atomic_numbers,
        spec,
        seed=run.seed,
        start_step=start_step,
        pin_memory=on_gpu,
        prepare=Preparation.of(model, padded) if on_gpu or padded else None,
    )
    _check_monitor(spec.monitor, set(module.available) & set(available_labels(val.frames)))
    return module, data


def _check_monitor(monitor: str, labels: set[str]) -> None:
    """Raises InputError for the error of a label that training or validation frames do not have."""
    for target, name in NAMES.items():
        if monitor.startswith(f"val/{name}_") and target not in labels:
            raise InputError(
                f"training.monitor={monitor}: training and validation frames do not both carry {target}; "
                f"write val/{SCORE}"
            )


class StopEarly(EarlyStopping):
    """Lightning's, except that a run that had stopped stays stopped when it is resumed."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


def build_trainer(spec: TrainingSpec, run: Run, callbacks: list[Callback]) -> pl.Trainer:
    """Lightning's Trainer as this package uses it: one long epoch of ``spec.steps`` batches."""
    return pl.Trainer(
        accelerator="gpu" if run.device == "cuda" else run.device,
        devices=1,
        max_epochs=1,
        val_check_interval=spec.validate_every,
        check_val_every_n_epoch=None,
        gradient_clip_val=spec.gradient_clip,
        logger=list(run.loggers) or False,
        log_every_n_steps=spec.log_every,
        callbacks=callbacks,
        default_root_dir=run.folder,
        num_sanity_val_steps=0,
        inference_mode=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
    )


def load_weights(module: ForceFieldModule, checkpoint: Path) -> ForceField:
    """The validated and shipped model with the weights of ``checkpoint``, on the CPU, in eval mode."""
    module.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    model = module.eval_model.cpu().eval()
    assert isinstance(model, ForceField)
    return model.requires_grad_(False)


def epochs_done(data: FrameDataModule, steps: int) -> float:
    """How often each training frame was seen, on average, in ``steps`` steps."""
    batches = data.sampler(data.train, data.spec.batch, shuffle=True)
    return steps / max(1, len(list(batches)))
