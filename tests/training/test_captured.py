"""Captured steps: the numbers of those that are not, resumed bit for bit, and given up with words."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from fake_cuda_graphs import FakeGraph, install
from rich.console import Console
from torch import Tensor
from training_runs import Stop, equal, without_clocks

from msmlff.data.batch import Batch
from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.packing import BatchBudget
from msmlff.data.store import FrameStore
from msmlff.errors import InputError
from msmlff.models import MSMACE
from msmlff.nn import ops
from msmlff.training.captured import Captured, CudaGraph, captured_calls
from msmlff.training.checkpoints import BEST, LAST, Interrupted, read_checkpoint
from msmlff.training.data_module import FrameSet, Preparation
from msmlff.training.fit import FitResult, Run, fit
from msmlff.training.loss import LossSpec, LossStage
from msmlff.training.metrics_file import MetricsFile
from msmlff.training.optim import OptimizerSpec, ScheduleSpec
from msmlff.training.specs import TrainingSpec

Sets = tuple[FrameSet, FrameSet]
MakeModel = Callable[..., MSMACE]

SPEC = TrainingSpec(
    steps=12,
    validations=2,
    batch=BatchBudget(frames=5),
    validation_batch=BatchBudget(frames=3),
    schedule=ScheduleSpec(warmup_steps=2),
    optimizer=OptimizerSpec(lr=1e-3),
    loss=LossSpec(stages=[LossStage(0.6, {"energy": 30.0})]),
    checkpoint_seconds=1e9,
    log_every=1,
)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on the CPU capture what runs on a GPU do."""
    install(monkeypatch)
    monkeypatch.setattr(
        "msmlff.training.fit.captured_calls",
        lambda choice, device, model: (
            Captured(partial(CudaGraph, pool=None), model.dtype) if choice == "graph" else None
        ),
    )


def train(sets: Sets, model: MSMACE, folder: Path, spec: TrainingSpec, **changes: Any) -> FitResult:
    loggers = [MetricsFile(folder / "metrics.csv", changes.pop("resume_step", None))]
    run = Run(folder, device="cpu", loggers=loggers, console=Console(quiet=True), **changes)
    with ops.use_backend("reference"):
        return fit(model, *sets, spec, run)


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


@pytest.mark.usefixtures("on_a_gpu")
def test_a_captured_run_is_the_run(frame_sets: Sets, make_model: MakeModel, tmp_path: Path) -> None:
    """Losses, errors and weights; over a change of the loss and batches of several sizes."""
    runs = {}
    for choice in ("none", "graph"):
        model = make_model(dtype=torch.float64)
        result = train(frame_sets, model, tmp_path / choice, replace(SPEC, compile=choice))
        runs[choice] = result.model.state_dict(), rows(tmp_path / choice)
    (expected, log), (found, other_log) = runs["none"], runs["graph"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9)
    assert len(log) == len(other_log)
    for row, other in zip(log, other_log, strict=True):
        assert other == pytest.approx(row, rel=1e-6)
    # 12 steps, and two validations of two batches each, all of them replayed
    assert sum(graph.replays for graph in FakeGraph.made) == 16
    assert 4 <= len(FakeGraph.made) < 10


@pytest.mark.usefixtures("on_a_gpu")
def test_resume_of_a_captured_run_is_bit_for_bit(
    frame_sets: Sets, make_model: MakeModel, tmp_path: Path
) -> None:
    spec = replace(SPEC, compile="graph")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(frame_sets, make_model(), whole, spec)
    with pytest.raises(Interrupted):
        train(frame_sets, make_model(), parts, spec, callbacks=[Stop(4)])
    step = read_checkpoint(parts / "checkpoints" / LAST)["global_step"]
    train(frame_sets, make_model(seed=7), parts, spec, resume=True, resume_step=step)
    for name in (LAST, BEST):
        equal(*(without_clocks(read_checkpoint(f / "checkpoints" / name)) for f in (whole, parts)))


def batches(sets: Sets, model: MSMACE, ids: list[list[int]]) -> list[Batch]:
    """Frames of the training set as a GPU run has them."""
    frames, lists = sets[0].frames, sets[0].neighbors
    prepare = Preparation.of(model, padded=True)
    return [
        prepare(collate([frames[i] for i in part], [lists[i] for i in part], model.atomic_numbers))
        for part in ids
    ]


def evaluation(model: MSMACE) -> Callable[[Batch], list[Tensor]]:
    def evaluate(batch: Batch) -> list[Tensor]:
        with ops.use_backend("reference"):
            found = model.eval()(batch, stress=True)
        return [found.energy, found.forces, found.stress]

    return evaluate


class Once:
    """A capture that keeps the results of the batch it was made with."""

    def __init__(self, function: Callable[[Batch], list[Tensor]], batch: Batch) -> None:
        self.results = [t.detach().clone() for t in function(batch)]

    def __call__(self, batch: Batch) -> list[Tensor]:
        return self.results


def broken(function: Callable[[Batch], list[Tensor]], batch: Batch) -> Callable[[Batch], list[Tensor]]:
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


@pytest.mark.parametrize(
    ("capture", "reason"),
    [(Once, r"results differ by .* more than 1e-08"), (broken, "not permitted when stream is capturing")],
)
def test_what_does_not_agree_is_given_up(
    frame_sets: Sets, make_model: MakeModel, capture: Any, reason: str
) -> None:
    """With one warning, at the latest at the second batch of a size; results are right all the same."""
    model = make_model(dtype=torch.float64)
    evaluate, captured = evaluation(model), Captured(capture, torch.float64)
    given = batches(frame_sets, model, [[0, 1], [2, 3], [4, 5]])
    with pytest.warns(UserWarning, match=rf"training.compile: .*{reason}") as caught:
        found = [captured(evaluate, batch) for batch in given]
    assert len([w for w in caught if "training.compile" in str(w.message)]) == 1
    for results, batch in zip(found, given, strict=True):
        for ours, theirs in zip(results, evaluate(batch), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, equal_nan=True)


def perfect_crystals(count: int) -> list[Configuration]:
    """Of copper at several lattice constants: forces are zero by symmetry."""
    frames = []
    for i in range(count):
        atoms = bulk("Cu", a=3.5 + 0.02 * i, cubic=True)
        atoms.calc = EMT()
        energy, zeros = atoms.get_potential_energy(), np.zeros_like(atoms.positions)
        frames.append(
            Configuration(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, energy, forces=zeros)
        )
    return frames


def rounding(
    function: Callable[[Batch], list[Tensor]], batch: Batch, error: float = 1e-7
) -> Callable[[Batch], list[Tensor]]:
    """A capture whose sums run in another order."""
    return lambda given: [t + error for t in function(given)]


def test_forces_that_are_zero_by_symmetry_are_no_disagreement(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    made: list[Captured] = []

    def captured(choice: str, device: str, model: MSMACE) -> Captured:
        made.append(Captured(rounding, model.dtype))
        return made[0]

    monkeypatch.setattr("msmlff.training.fit.captured_calls", captured)
    store = FrameStore.build(perfect_crystals(6), tmp_path / "cache")
    crystals = FrameSet.at_cutoff(store, 4.0)
    train((crystals, crystals), make_model(), tmp_path / "run", SPEC)
    assert made[0].failed is None
    assert not [w for w in recwarn if "training.compile" in str(w.message)]


@pytest.mark.parametrize("wrong", [1e-5, 1e-2])
def test_small_results_are_compared_with_what_is_typical(
    frame_sets: Sets, make_model: MakeModel, wrong: float
) -> None:
    """Up to 1e-4 of where a typical entry is 0.1."""
    (batch,) = batches(frame_sets, make_model(), [[0, 1]])
    captured = Captured(partial(rounding, error=wrong), torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captured(lambda given: [1e-9 * given.positions], batch, magnitudes=[0.1])
    assert (captured.failed is None) == (wrong < 1e-4)


def test_other_functions_and_sizes_are_other_captures(
    frame_sets: Sets, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    model = make_model(dtype=torch.float64)
    evaluate, captured = evaluation(model), Captured(partial(CudaGraph, pool=None), torch.float64)
    two, other, three = batches(frame_sets, model, [[0, 1], [2, 3], [4, 5, 6, 7, 8]])
    for batch in (two, other, two):
        captured(evaluate, batch)
    assert [graph.replays for graph in FakeGraph.made] == [3]
    captured(evaluate, three)
    twice = captured(lambda batch: [2 * t for t in evaluate(batch)], two, "twice")
    assert [graph.replays for graph in FakeGraph.made] == [3, 1, 1]
    torch.testing.assert_close(twice[1], 2 * evaluate(two)[1])
    captured(evaluate, replace(two, layout=None))
    assert len(FakeGraph.made) == 3


def test_weights_may_move_between_replays(
    frame_sets: Sets, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an optimiser moves them, in their place."""
    install(monkeypatch)
    model = make_model(dtype=torch.float64)
    evaluate, captured = evaluation(model), Captured(partial(CudaGraph, pool=None), torch.float64)
    (batch,) = batches(frame_sets, model, [[0, 1]])
    before = captured(evaluate, batch)[1].clone()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    captured(evaluate, batch)
    after = captured(evaluate, batch)[1]
    assert captured.failed is None
    torch.testing.assert_close(after, evaluate(batch)[1])
    assert not torch.allclose(after, before)


@pytest.mark.parametrize("there", [False, True])
def test_auto_is_the_gpu_where_there_is_one(
    frame_sets: Sets, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    class AskedError(Exception):
        """What the run would be captured on."""

    def captured(choice: str, device: str, model: MSMACE) -> None:
        raise AskedError(device)

    monkeypatch.setattr("msmlff.training.fit.captured_calls", captured)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    with pytest.raises(AskedError, match="cuda" if there else "cpu"):
        fit(make_model(), *frame_sets, SPEC, Run(tmp_path, console=Console(quiet=True)))


def test_graph_is_for_a_gpu_and_known_words_are_taken(make_model: MakeModel) -> None:
    assert captured_calls("auto", "cpu", make_model()) is None
    assert captured_calls("none", "cuda", make_model()) is None
    with pytest.raises(
        InputError, match=r"training.compile=graph: it captures CUDA graphs.*write auto or none"
    ):
        captured_calls("graph", "cpu", make_model())
    with pytest.raises(InputError, match=r"training.compile=fast: write auto, none or graph"):
        TrainingSpec(compile="fast")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_captured_run_on_a_gpu(
    frame_sets: Sets,
    make_model: MakeModel,
    tmp_path: Path,
    dtype: torch.dtype,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Nothing is given up, and the run is that on the GPU without."""
    found = {}
    for choice in ("none", "graph"):
        spec = replace(SPEC, steps=40, compile=choice)
        run = Run(tmp_path / choice, device="cuda", console=Console(quiet=True))
        found[choice] = fit(make_model(dtype=dtype), *frame_sets, spec, run)
    assert not [w for w in recwarn if "training.compile" in str(w.message)]
    tolerance = 1e-6 if dtype == torch.float64 else 0.02
    assert found["graph"].best_score == pytest.approx(found["none"].best_score, rel=tolerance)
