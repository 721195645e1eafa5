"""Stability of short dynamics as a metric: what it says of known models, and its place in a training run."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from toys import LennardJones, Pairs, Trap, Undefined, fcc
from training_runs import Stop, equal, without_clocks

from msmlff.data.configuration import Configuration
from msmlff.data.packing import BatchBudget
from msmlff.data.store import FrameStore
from msmlff.errors import InputError
from msmlff.models import MSMACE
from msmlff.training.checkpoints import BEST, LAST, Interrupted, read_checkpoint
from msmlff.training.data_module import FrameSet
from msmlff.training.fit import Run, fit
from msmlff.training.metrics import rank
from msmlff.training.metrics_file import MetricsFile
from msmlff.training.optim import ScheduleSpec
from msmlff.training.specs import StabilitySpec, TrainingSpec
from msmlff.training.stability import stability, starting_frames

Sets = tuple[FrameSet, FrameSet]
MakeModel = Callable[..., MSMACE]

SHORT = StabilitySpec(every=1, frames=2, steps=20, timestep=1.0)
SPEC = TrainingSpec(
    steps=12,
    validations=4,
    batch=BatchBudget(frames=5),
    schedule=ScheduleSpec(warmup_steps=2),
    checkpoint_seconds=1e9,
    stability=SHORT,
)


def molecule(*positions: tuple[float, float, float]) -> Configuration:
    """Hydrogen atoms in vacuum."""
    return Configuration(
        np.ones(len(positions), dtype=np.int64),
        np.array(positions),
        np.zeros((3, 3)),
        np.zeros(3, dtype=bool),
    )


def run(folder: Path, resume_step: int | None = None, **changes: Any) -> Run:
    loggers = [MetricsFile(folder / "metrics.csv", resume_step)]
    return Run(folder, device="cpu", loggers=loggers, **{"console": Console(quiet=True), **changes})


def column(folder: Path, name: str) -> dict[int, float]:
    """Values of metrics.csv by the number of steps done."""
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]) + 1: float(row[name]) for row in csv.DictReader(file) if row[name]}


def test_a_crystal_is_stable_at_the_temperature_of_its_bath() -> None:
    """From perfect order half of the kinetic energy goes into the potential one; a bath gives it back."""
    spec = StabilitySpec(every=1, steps=400, timestep=3.0, temperature=60.0, thermostat_time=100.0)
    crystals = [fcc(2, rattle=0.0)] * 4
    bath = stability(LennardJones(), crystals, spec, 0)
    assert (bath["stable_share"], bath["stable_time_fs"]) == (1.0, 1200.0)
    assert abs(bath["temperature_drift"]) < 8.0
    alone = stability(LennardJones(), crystals, replace(spec, thermostat=None), 0)
    assert alone["stable_share"] == 1.0
    assert alone["temperature_drift"] == pytest.approx(-30.0, abs=5.0)
    assert 0.0 < alone["energy_drift"] < 0.05
    coarse = stability(LennardJones(), crystals, replace(spec, thermostat=None, timestep=6.0), 0)
    assert coarse["energy_drift"] > 10 * alone["energy_drift"]


def test_an_explosion_is_a_low_number() -> None:
    """Of three molecules one falls into a hole of the model; where all are not finite nothing is left."""
    apart = molecule((0.0, 0.0, 0.0), (1.9, 0.0, 0.0))
    close = molecule((0.0, 0.0, 0.0), (0.78, 0.0, 0.0))
    spec = StabilitySpec(every=1, steps=200, timestep=0.5, temperature=10.0)
    found = stability(Trap(), [apart, close, apart], spec, 0)
    assert found["stable_share"] == pytest.approx(2 / 3)
    assert 2 / 3 * 100.0 < found["stable_time_fs"] < 0.9 * 100.0
    assert "temperature_drift" in found
    wide = replace(fcc(), cell=20.0 * np.eye(3))
    assert stability(Undefined(), [wide, wide], spec, 0) == {"stable_share": 0.0, "stable_time_fs": 0.0}


def test_molecules_that_fall_apart_are_unstable_where_bonds_count() -> None:
    """Two atoms that repel each other, 4 eV (1 - r/2)²: 0.5 Å in about 5 fs, without excessive heat."""
    pair = molecule((0.0, 0.0, 0.0), (0.75, 0.0, 0.0))
    spec = StabilitySpec(every=1, steps=200, timestep=0.25, temperature=3000.0, thermostat=None)
    assert stability(Pairs(), [pair], spec, 0)["stable_share"] == 1.0
    found = stability(Pairs(), [pair, pair], replace(spec, bonds=0.5), 0)
    assert found["stable_share"] == 0.0
    assert 2.0 < found["stable_time_fs"] < 10.0
    single = molecule((0.0, 0.0, 0.0), (1.9, 0.0, 0.0))  # no bond to lose
    assert stability(Pairs(), [single], replace(spec, bonds=0.5), 0)["stable_share"] == 1.0


def test_it_is_the_same_at_every_check_and_draws_no_random_numbers() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    spec = StabilitySpec(every=1, steps=30, timestep=4.0, temperature=60.0)
    runs = [stability(LennardJones(), [fcc(), fcc(seed=1)], spec, seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0]["temperature_drift"] != runs[2]["temperature_drift"]
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_starting_frames_are_spread_and_can_move() -> None:
    good = [molecule((0, 0, 0), (1.0 + 0.1 * i, 0, 0)) for i in range(9)]
    assert [f.positions[1, 0] for f in starting_frames(good, 3)] == pytest.approx([1.0, 1.3, 1.6])
    assert len(starting_frames(good, 20)) == 9
    bad = [molecule((0, 0, 0)), molecule((0, 0, 0), (0.3, 0, 0))]
    frames = [*bad, good[0], good[1], bad[0], good[2]]
    assert [f.positions[1, 0] for f in starting_frames(frames, 3)] == [1.0, 1.1, 1.2]
    with pytest.raises(InputError, match=r"no validation frame can be started from.*every=null"):
        starting_frames(bad, 3)


def test_it_is_logged_where_it_is_due(frame_sets: Sets, make_model: MakeModel, run_folder: Path) -> None:
    """Every second of validations after 5, 10, 15 steps, and after the last; a column of the table."""
    shown = Console(file=io.StringIO(), width=150)
    spec = replace(SPEC, steps=17, validations=4, stability=replace(SHORT, every=2))
    fit(make_model(), *frame_sets, spec, run(run_folder, console=shown))
    for name in ("stable_share", "stable_time_fs"):
        assert list(column(run_folder, f"val/{name}")) == [10, 17]
    assert set(column(run_folder, "val/stable_share").values()) <= {0.0, 0.5, 1.0}
    assert max(column(run_folder, "val/stable_time_fs").values()) <= 20.0
    assert list(column(run_folder, "val/score")) == [5, 10, 15, 17]
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "stable" in text.splitlines()[0]
    ends = [line.split()[-1] for line in text.splitlines()[2:6]]
    assert [end.endswith("%") for end in ends] == [False, True, False, True]


def test_training_and_resuming_are_the_same_with_and_without(
    frame_sets: Sets, make_model: MakeModel, tmp_path: Path
) -> None:
    folders = {name: tmp_path / name for name in ("with", "without", "parts")}
    fit(make_model(), *frame_sets, SPEC, run(folders["with"]))
    fit(make_model(), *frame_sets, replace(SPEC, stability=StabilitySpec()), run(folders["without"]))
    with pytest.raises(Interrupted):
        fit(make_model(), *frame_sets, SPEC, run(folders["parts"], callbacks=[Stop(6)]))
    torch.manual_seed(12345)
    fit(make_model(seed=7), *frame_sets, SPEC, run(folders["parts"], resume_step=7, resume=True))
    states = {n: without_clocks(read_checkpoint(f / "checkpoints" / LAST)) for n, f in folders.items()}
    equal(states["with"], states["parts"])
    equal(states["with"]["state_dict"], states["without"]["state_dict"])
    assert (folders["with"] / "metrics.csv").read_text() == (folders["parts"] / "metrics.csv").read_text()


class Scripted:
    """In place of ``stability``: given numbers, one a check; keeps the weights it was called with."""

    def __init__(self, *shares: float) -> None:
        self.shares = list(shares)
        self.weights: list[dict[str, torch.Tensor]] = []

    def __call__(self, model: torch.nn.Module, *_: Any) -> dict[str, float]:
        self.weights.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"stable_share": self.shares[len(self.weights) - 1], "stable_time_fs": 1.0}


@pytest.mark.parametrize(("shares", "best"), [((0.5, 1.0, 0.5, 0.0), 6), ((0.5, 0.5, 0.5, 0.5), None)])
def test_the_best_weights_can_be_the_most_stable(
    frame_sets: Sets,
    make_model: MakeModel,
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    shares: tuple[float, ...],
    best: int | None,
) -> None:
    """Among equally stable ones, those of the lowest score; it looks at the averaged weights."""
    script = Scripted(*shares)
    monkeypatch.setattr("msmlff.training.stability.stability", script)
    result = fit(make_model(), *frame_sets, replace(SPEC, monitor="val/stable_share"), run(run_folder))
    scores = column(run_folder, "val/score")
    assert result.best_step == (min(scores, key=scores.__getitem__) if best is None else best)
    assert result.best_score == pytest.approx(scores[result.best_step], rel=1e-5)
    assert read_checkpoint(run_folder / "checkpoints" / BEST)["global_step"] == result.best_step
    state = read_checkpoint(run_folder / "checkpoints" / LAST)["state_dict"]
    assert all(torch.equal(value, state[f"ema.{name}"]) for name, value in script.weights[-1].items())


class PoisonLast(pl.Callback):
    """Makes all weights NaN before the last validation."""

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step == SPEC.steps:
            for parameter in module.parameters():
                parameter.data.fill_(float("nan"))


def test_weights_that_are_not_finite_are_unstable(
    frame_sets: Sets, make_model: MakeModel, run_folder: Path
) -> None:
    result = fit(make_model(), *frame_sets, SPEC, run(run_folder, callbacks=[PoisonLast()]))
    assert column(run_folder, "val/stable_share")[12] == 0.0
    assert 12 not in column(run_folder, "val/temperature_drift")
    assert result.best_step < 12


def test_the_order_of_validations() -> None:
    assert rank({"score": 0.5}, "score") == (0.5, 0.5)
    more, less = (rank({"score": 0.5, "stable_time_fs": t}, "stable_time_fs") for t in (300.0, 200.0))
    assert more is not None
    assert less is not None
    assert more < less
    assert rank({"score": 0.1}, "stable_time_fs") is None
    assert rank({"score": float("inf"), "force_rmse": 1.0}, "force_rmse") is None


def test_the_error_of_an_absent_label_cannot_be_monitored(
    frame_sets: Sets, make_model: MakeModel, run_folder: Path, tmp_path: Path
) -> None:
    frames = [replace(f, stress=None) for f in frame_sets[1].frames]
    bare = FrameSet.at_cutoff(FrameStore.build(frames, tmp_path / "cache"), 4.0)
    with pytest.raises(InputError, match=r"training.monitor=val/stress_mae: .* write val/score"):
        fit(make_model(), frame_sets[0], bare, replace(SPEC, monitor="val/stress_mae"), run(run_folder))


@pytest.mark.parametrize(
    ("key", "value", "write"),
    [
        ("every", 0, "write a whole number >= 1"),
        ("frames", 0, "write a whole number >= 1"),
        ("steps", 9, "write a whole number >= 10"),
        ("timestep", 0.0, "write a positive number"),
        ("temperature", float("nan"), "write a positive number"),
        ("thermostat_time", -1.0, "write a positive number"),
        ("bonds", 0.0, "write a positive number"),
    ],
)
def test_values_out_of_range_name_their_key(key: str, value: Any, write: str) -> None:
    with pytest.raises(InputError, match=f"training.stability.{key}={value}: {write}"):
        StabilitySpec(**{key: value})


def test_what_is_monitored_must_be_there() -> None:
    with pytest.raises(InputError, match=r"training.monitor=score: write one of val/score, val/energy_rmse"):
        TrainingSpec(monitor="score")
    with pytest.raises(InputError, match=r"needs that metric: write training.stability.every=1"):
        TrainingSpec(monitor="val/stable_share")
