"""Training runs: they learn, stop, resume bit for bit, and fail with words."""

from __future__ import annotations

import csv
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from emt_pool import E0S
from rich.console import Console
from training_runs import Stop, equal, without_clocks

from msmlff.data.packing import BatchBudget
from msmlff.data.store import FrameStore
from msmlff.errors import DivergenceError, InputError, MSMLFFError
from msmlff.models import MSMACE
from msmlff.training.checkpoints import BEST, LAST, Interrupted, read_checkpoint
from msmlff.training.data_module import FrameSet
from msmlff.training.evaluate import predict
from msmlff.training.fit import Run, fit, label_spread
from msmlff.training.loss import LossSpec, LossStage, LossTerm
from msmlff.training.metrics_file import MetricsFile
from msmlff.training.optim import OptimizerSpec, ScheduleSpec, lr_factor
from msmlff.training.specs import TrainingSpec

Sets = tuple[FrameSet, FrameSet]
MakeModel = Callable[..., MSMACE]

SPEC = TrainingSpec(
    steps=24,
    validations=3,
    batch=BatchBudget(
        frames=5
    ),  # 12 frames: epochs of 3 batches, validations every 8 steps fall inside epochs
    schedule=ScheduleSpec(name="cosine", warmup_steps=4),
    loss=LossSpec(stages=[LossStage(0.6, {"energy": 10.0})]),
    checkpoint_seconds=1e9,
)


SOAP = OptimizerSpec(name="soap", beta1=0.95, beta2=0.95, precondition_every=3)


def run(folder: Path, **changes: Any) -> Run:
    loggers = [MetricsFile(folder / "metrics.csv", changes.pop("resume_step", None))]
    return Run(folder, device="cpu", loggers=loggers, console=Console(quiet=True), **changes)


def test_it_learns(frame_sets: Sets, make_model: MakeModel, run_folder: Path) -> None:
    spec = replace(SPEC, steps=150, validations=3, optimizer=OptimizerSpec(lr=0.03))
    result = fit(make_model(), *frame_sets, spec, run(run_folder))
    rows = list(csv.DictReader((run_folder / "metrics.csv").open()))
    scores = [float(row["val/score"]) for row in rows if row["val/score"]]
    assert len(scores) == 3
    assert scores[-1] < scores[0]
    last = [float(row["val/force_rmse"]) for row in rows if row["val/score"]][-1]
    assert last < 0.1 * label_spread(frame_sets[0].frames, E0S)["force_rmse"]
    assert result.best_score == pytest.approx(min(scores), rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "optimizer"),
    [("cosine", OptimizerSpec()), ("plateau", OptimizerSpec()), ("cosine", SOAP)],
    ids=["cosine", "plateau", "soap"],
)
# the step that follows is the last: 8 is validated, 10 logged, 12 ends an epoch
@pytest.mark.parametrize("at", [7, 8, 9, 11, 16])
def test_resume_is_bit_for_bit(
    frame_sets: Sets,
    make_model: MakeModel,
    tmp_path: Path,
    schedule: str,
    optimizer: OptimizerSpec,
    at: int,
) -> None:
    spec = replace(
        SPEC,
        schedule=ScheduleSpec(name=schedule, warmup_steps=4, plateau_patience=0),
        optimizer=optimizer,
        early_stopping=9,
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(make_model(), *frame_sets, spec, run(whole))
    with pytest.raises(Interrupted):
        fit(make_model(), *frame_sets, spec, run(parts, callbacks=[Stop(at)]))
    torch.manual_seed(12345)  # whatever a new process starts with
    np.random.seed(99)  # noqa: NPY002
    step = read_checkpoint(parts / "checkpoints" / LAST)["global_step"]
    fit(make_model(seed=7), *frame_sets, spec, run(parts, resume=True, resume_step=step))
    for name in (LAST, BEST):
        equal(*(without_clocks(read_checkpoint(f / "checkpoints" / name)) for f in (whole, parts)))
    assert (whole / "metrics.csv").read_text() == (parts / "metrics.csv").read_text()


def test_the_last_step_is_validated_and_saved(
    frame_sets: Sets, make_model: MakeModel, run_folder: Path
) -> None:
    """Also where the validations do not divide the steps."""
    spec = replace(SPEC, steps=13, validations=4)
    result = fit(make_model(), *frame_sets, spec, run(run_folder))
    steps = [
        int(row["step"]) for row in csv.DictReader((run_folder / "metrics.csv").open()) if row["val/score"]
    ]
    assert steps == [3, 7, 11, 12]
    assert result.steps == 13
    assert not result.stopped_early
    assert read_checkpoint(run_folder / "checkpoints" / LAST)["global_step"] == 13


def test_the_shipped_weights_are_the_averaged_ones_of_the_best_step(
    frame_sets: Sets, make_model: MakeModel, run_folder: Path
) -> None:
    result = fit(make_model(), *frame_sets, SPEC, run(run_folder))
    state = read_checkpoint(run_folder / "checkpoints" / BEST)["state_dict"]
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, state[f"ema.{name}"])
    raw = [state[f"model.{name}"] for name in result.model.state_dict()]
    assert any(not torch.equal(a, b) for a, b in zip(raw, result.model.state_dict().values(), strict=True))


def test_the_seed_alone_decides(frame_sets: Sets, make_model: MakeModel, tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        results.append(
            fit(make_model(), *frame_sets, SPEC, run(tmp_path / name, seed=seed)).model.state_dict()
        )
        torch.manual_seed(len(results))
    a, b, c = results
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_ctrl_c_leaves_a_resumable_run(frame_sets: Sets, make_model: MakeModel, run_folder: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="SIGINT"):
        fit(make_model(), *frame_sets, SPEC, run(run_folder, callbacks=[Stop(5, signal.SIGINT)]))
    assert read_checkpoint(run_folder / "checkpoints" / LAST)["global_step"] == 6
    assert signal.getsignal(signal.SIGINT) is before


def test_divergence_names_step_frames_and_advice(
    frame_sets: Sets, make_model: MakeModel, run_folder: Path
) -> None:
    spec = replace(SPEC, optimizer=OptimizerSpec(lr=1.0), gradient_clip=None, divergence_factor=10.0)
    with pytest.raises(
        DivergenceError, match=r"(?s)diverged at step \d+.*emt-1:\d+.*lower training.optimizer.lr"
    ):
        fit(make_model(), *frame_sets, spec, run(run_folder))


def test_a_stage_that_raises_the_loss_is_no_divergence(
    frame_sets: Sets, make_model: MakeModel, run_folder: Path
) -> None:
    loss = LossSpec(energy=LossTerm(weight=0.0), stages=[LossStage(0.5, {"energy": 1e9})])
    spec = replace(SPEC, loss=loss, optimizer=OptimizerSpec(lr=1e-12), divergence_factor=10.0)
    assert fit(make_model(), *frame_sets, spec, run(run_folder)).steps == 24


class Poison(pl.Callback):
    """Makes every weight NaN before the step or the validation that follows ``step`` steps."""

    def __init__(self, step: int, at_validation: bool) -> None:
        self.step, self.at_validation = step, at_validation

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self._act(trainer, module, at_validation=False)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._act(trainer, module, at_validation=True)

    def _act(self, trainer: pl.Trainer, module: pl.LightningModule, at_validation: bool) -> None:
        if trainer.global_step == self.step and at_validation == self.at_validation:
            for parameter in module.parameters():
                parameter.data.fill_(float("nan"))


def test_weights_that_are_not_finite_stop_the_run_and_are_never_the_best(
    frame_sets: Sets, make_model: MakeModel, tmp_path: Path
) -> None:
    for early_stopping in (None, 5):
        folder = tmp_path / str(early_stopping)
        with pytest.raises(DivergenceError, match=r"(?s)diverged at step 10: loss nan.*emt-1:\d+"):
            fit(
                make_model(),
                *frame_sets,
                replace(SPEC, early_stopping=early_stopping),
                run(folder, callbacks=[Poison(10, at_validation=False)]),
            )
        assert read_checkpoint(folder / "checkpoints" / BEST)["global_step"] == 8
    result = fit(
        make_model(), *frame_sets, SPEC, run(tmp_path / "end", callbacks=[Poison(24, at_validation=True)])
    )
    assert result.best_step < 24
    assert all(torch.isfinite(p).all() for p in result.model.parameters())
    only = replace(SPEC, validations=1, early_stopping=5)
    with pytest.raises(DivergenceError, match="no validation gave finite errors"):
        fit(
            make_model(), *frame_sets, only, run(tmp_path / "one", callbacks=[Poison(24, at_validation=True)])
        )


def test_a_validation_set_needs_a_label_that_is_trained_on(
    frame_sets: Sets, make_model: MakeModel, tmp_path: Path
) -> None:
    """One of several is enough; the score is then of that one."""

    def stripped(**labels: Any) -> FrameSet:
        frames = [replace(frame, **labels) for frame in frame_sets[1].frames]
        return FrameSet.at_cutoff(FrameStore.build(frames, tmp_path / "cache"), 4.0)

    energies = LossSpec(forces=LossTerm(weight=0.0), stress=LossTerm(weight=0.0))
    val = stripped(energy=float("nan"))
    with pytest.raises(
        InputError, match=r"no validation frame carries a label that is trained on.*\(energy\)"
    ):
        fit(make_model(), frame_sets[0], val, replace(SPEC, loss=energies), run(tmp_path / "none"))
    result = fit(make_model(), frame_sets[0], val, SPEC, run(tmp_path / "forces"))
    assert 0 < result.best_score < float("inf")


def test_early_stopping_stops(frame_sets: Sets, make_model: MakeModel, run_folder: Path) -> None:
    spec = replace(
        SPEC, optimizer=OptimizerSpec(lr=1e-12), early_stopping=1, ema_decay=None, steps=60, validations=20
    )
    result = fit(make_model(), *frame_sets, spec, run(run_folder))
    assert result.stopped_early
    assert result.steps < 60
    again = fit(make_model(), *frame_sets, spec, run(run_folder, resume=True, resume_step=result.steps))
    assert (again.steps, again.best_step) == (result.steps, result.best_step)


def test_damaged_and_missing_checkpoints_are_errors(
    frame_sets: Sets, make_model: MakeModel, run_folder: Path
) -> None:
    with pytest.raises(InputError, match="no checkpoint there"):
        fit(make_model(), *frame_sets, SPEC, run(run_folder, resume=True))
    with pytest.raises(Interrupted):
        fit(make_model(), *frame_sets, SPEC, run(run_folder, callbacks=[Stop(5)]))
    path = run_folder / "checkpoints" / LAST
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match="is damaged"):
        fit(make_model(), *frame_sets, SPEC, run(run_folder, resume=True))


def test_a_checkpoint_of_an_earlier_version_is_named(
    frame_sets: Sets, make_model: MakeModel, run_folder: Path
) -> None:
    with pytest.raises(Interrupted):
        fit(make_model(), *frame_sets, SPEC, run(run_folder, callbacks=[Stop(9)]))
    path = run_folder / "checkpoints" / LAST
    content = read_checkpoint(path)
    del content["callbacks"]["RunCheckpoints"]["best_value"]
    torch.save(content, path)
    with pytest.raises(InputError, match=r"last\.ckpt is of an earlier version .* without best_value: go on"):
        fit(make_model(), *frame_sets, SPEC, run(run_folder, resume=True))


def test_a_full_disk_keeps_the_checkpoint_before(
    frame_sets: Sets, make_model: MakeModel, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second write of last.ckpt fails half way: the first stays whole."""
    real = pl.Trainer.save_checkpoint
    calls = []

    def save(self: pl.Trainer, path: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(path)
        if len(calls) > 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(self, path, *args, **kwargs)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", save)
    with pytest.raises(MSMLFFError, match="No space left on device"):
        fit(make_model(), *frame_sets, SPEC, run(run_folder))
    assert read_checkpoint(run_folder / "checkpoints" / LAST)["global_step"] == 8
    assert sorted(p.name for p in (run_folder / "checkpoints").iterdir()) == [BEST, LAST]


def test_unknown_choices(frame_sets: Sets, make_model: MakeModel, run_folder: Path) -> None:
    for spec, words in (
        (replace(SPEC, schedule=ScheduleSpec(warmup_steps=24)), "warmup_steps=24"),
        (replace(SPEC, loss=LossSpec(group_weights={"g9": 2.0})), "no training frame is of group 'g9'"),
    ):
        with pytest.raises(InputError, match=words):
            fit(make_model(), *frame_sets, spec, run(run_folder))


@pytest.mark.parametrize(
    ("key", "value", "write"),
    [
        ("optimizer.name", "sgd", "write one of adam, amsgrad, adamw, soap"),
        ("optimizer.lr", 0.0, "write a positive number"),
        ("optimizer.lr", float("nan"), "write a positive number"),
        ("optimizer.weight_decay", -0.1, "write a number >= 0"),
        ("optimizer.beta1", 1.0, "write a number >= 0 and < 1"),
        ("optimizer.beta2", -0.1, "write a number >= 0 and < 1"),
        ("optimizer.precondition_every", 0, "write a whole number >= 1"),
        ("schedule.name", "step", "write one of constant, cosine, plateau"),
        ("schedule.warmup_steps", -1, "write a whole number >= 0"),
        ("schedule.lr_min_factor", 1.5, "write a number from 0 to 1"),
        ("schedule.plateau_factor", 1.0, "write a number between 0 and 1"),
        ("schedule.plateau_patience", -1, "write a whole number >= 0"),
    ],
)
def test_values_out_of_range_name_their_key(key: str, value: Any, write: str) -> None:
    part, name = key.split(".")
    spec: Any = {"optimizer": OptimizerSpec, "schedule": ScheduleSpec}[part]
    with pytest.raises(InputError, match=re.escape(f"training.{key}={value}: {write}")):
        spec(**{name: value})


def test_frames_of_other_groups_than_the_weighted_ones_are_predicted(
    stores: tuple[FrameStore, FrameStore], make_model: MakeModel
) -> None:
    """A test set need not have the group whose training frames weigh more."""
    frames = FrameSet.at_cutoff(stores[1].subset([0]), 4.0)
    spec = replace(SPEC, loss=LossSpec(group_weights={"g2": 2.0}))
    assert len(predict(make_model(), frames, spec)) == 1


def test_cosine_and_warmup() -> None:
    spec = ScheduleSpec(name="cosine", warmup_steps=10, lr_min_factor=0.1)
    assert [lr_factor(s, spec, 110) for s in (0, 9, 10)] == pytest.approx([0.1, 1.0, 1.0])
    assert lr_factor(60, spec, 110) == pytest.approx(0.55)
    assert lr_factor(110, spec, 110) == pytest.approx(0.1)


def test_spread_is_the_trivial_predictors_error(stores: tuple[FrameStore, FrameStore]) -> None:
    train = stores[0]
    spread = label_spread(train, {13: 0.0, 29: 0.0})
    forces = np.concatenate([frame.forces for frame in train])
    assert spread["force_rmse"] == pytest.approx(1000 * np.sqrt(np.mean(forces**2)))
    assert spread["energy_rmse"] == pytest.approx(1000 * np.std([frame.energy / 8 for frame in train]))


def test_writing_checkpoints_is_neither_training_nor_waiting(
    frame_sets: Sets, make_model: MakeModel, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that ticks once a look, and a thousand times a checkpoint: a tick to wait and one to train."""
    now = [0.0]

    def look() -> float:
        now[0] += 1
        return now[0]

    real = pl.Trainer.save_checkpoint

    def save(self: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        now[0] += 1000
        real(self, *args, **kwargs)

    monkeypatch.setattr("msmlff.training.progress.time", SimpleNamespace(perf_counter=look))
    monkeypatch.setattr(pl.Trainer, "save_checkpoint", save)
    figures = fit(make_model(), *frame_sets, replace(SPEC, checkpoint_seconds=0.0), run(run_folder)).figures
    assert figures["seconds_training"] == 48
    assert figures["data_wait_share"] == 0.5


def test_signal_handlers_are_put_back(frame_sets: Sets, make_model: MakeModel, run_folder: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    fit(
        make_model(),
        *frame_sets,
        replace(SPEC, steps=4, validations=1, schedule=ScheduleSpec(warmup_steps=0)),
        run(run_folder),
    )
    assert signal.getsignal(signal.SIGTERM) is before
