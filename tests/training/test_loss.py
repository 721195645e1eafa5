"""The loss: masks, weights, stages, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from msmlff.data.batch import Batch
from msmlff.data.collate import collate
from msmlff.errors import InputError
from msmlff.models.base import Prediction
from msmlff.training.data_module import FrameSet
from msmlff.training.loss import Loss, LossSpec, LossStage, LossTerm, check_groups, group_factor
from msmlff.training.metrics import ErrorSums, relative_score

ALL = ("energy", "forces", "stress")


@pytest.fixture
def batch(frame_sets: tuple[FrameSet, FrameSet]) -> Batch:
    train = frame_sets[0]
    return collate([train.frames[i] for i in range(3)], [train.neighbors[i] for i in range(3)], (13, 29))


@pytest.fixture
def prediction(batch: Batch) -> Prediction:
    generator = torch.Generator().manual_seed(0)

    def noisy(label: torch.Tensor) -> torch.Tensor:
        return label + 0.1 * torch.randn(label.shape, generator=generator, dtype=torch.float64)

    return Prediction(
        noisy(batch.energy), torch.zeros(batch.num_atoms), noisy(batch.forces), noisy(batch.stress)
    )


def test_mse_equals_numpy(batch: Batch, prediction: Prediction) -> None:
    parts = Loss(LossSpec(), ALL)(prediction, batch, 0.0)
    energy = np.mean(((prediction.energy - batch.energy).numpy() / 8) ** 2)
    forces = np.mean((prediction.forces - batch.forces).numpy() ** 2)
    stress = np.mean((prediction.stress - batch.stress).numpy() ** 2)
    assert float(parts["energy"]) == pytest.approx(energy)
    assert float(parts["forces"]) == pytest.approx(forces)
    assert float(parts["stress"]) == pytest.approx(stress)
    assert float(parts["loss"]) == pytest.approx(10 * energy + 100 * forces + 10 * stress)


@pytest.mark.parametrize(
    ("kind", "reference"), [("mae", torch.nn.L1Loss()), ("huber", torch.nn.HuberLoss(delta=0.05))]
)
def test_other_kinds_equal_torch(
    batch: Batch, prediction: Prediction, kind: str, reference: torch.nn.Module
) -> None:
    spec = LossSpec(forces=LossTerm(kind=kind, weight=1.0, delta=0.05))
    parts = Loss(spec, ALL)(prediction, batch, 0.0)
    assert float(parts["forces"]) == pytest.approx(float(reference(prediction.forces, batch.forces)))


def test_missing_labels_do_not_count(batch: Batch, prediction: Prediction) -> None:
    forces = batch.forces.clone()
    forces[batch.frame == 1] = float("nan")
    energy = batch.energy.clone()
    energy[2] = float("nan")
    parts = Loss(LossSpec(), ALL)(prediction, replace(batch, forces=forces, energy=energy), 0.0)
    there = batch.frame != 1
    expected = (prediction.forces - batch.forces)[there].square().mean()
    assert float(parts["forces"]) == pytest.approx(float(expected))
    assert float(parts["energy"]) == pytest.approx(
        float(((prediction.energy - batch.energy)[:2] / 8).square().mean())
    )
    assert math.isfinite(float(parts["loss"]))


def test_frame_weights(batch: Batch, prediction: Prediction) -> None:
    """A frame of weight zero is left out; a common factor of all weights scales the loss."""
    spec = LossSpec(energy=LossTerm(weight=0.0), stress=LossTerm(weight=0.0))
    without = Loss(spec, ALL)(prediction, replace(batch, weight=torch.tensor([1.0, 0.0, 1.0])), 0.0)
    there = batch.frame != 1
    expected = (prediction.forces - batch.forces)[there].square().mean()
    assert float(without["forces"]) == pytest.approx(float(expected))
    doubled = Loss(spec, ALL)(prediction, replace(batch, weight=torch.full((3,), 2.0)), 0.0)
    single = Loss(spec, ALL)(prediction, batch, 0.0)
    assert float(doubled["loss"]) == pytest.approx(2 * float(single["loss"]))


def test_late_stage_raises_the_energy_weight() -> None:
    loss = Loss(LossSpec(stages=[LossStage(0.75, {"energy": 1000.0})]), ALL)
    assert loss.weights(0.74)["energy"] == 10.0
    assert loss.weights(0.75) == {"energy": 1000.0, "forces": 100.0, "stress": 10.0}


def test_a_stage_switches_a_target_on() -> None:
    spec = LossSpec(energy=LossTerm(weight=0.0), stages=[LossStage(0.5, {"energy": 1000.0})])
    loss = Loss(spec, ALL)
    assert loss.uses("energy")
    assert [loss.weights(p)["energy"] for p in (0.4, 0.5)] == [0.0, 1000.0]
    assert not Loss(LossSpec(energy=LossTerm(weight=0.0)), ALL).uses("energy")


def test_an_automatic_weight_follows_the_labels_in_stages_too() -> None:
    loss = Loss(LossSpec(stages=[LossStage(0.5, {"stress": 5.0})]), ("energy", "forces"))
    assert loss.weights(0.9)["stress"] == 0.0


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (LossSpec(stress=LossTerm(weight=1.0)), "no training frame carries stress"),
        (LossSpec(forces=LossTerm(kind="l2")), "forces.kind=l2: write one of mse, mae, huber"),
        (LossSpec(forces=LossTerm(weight=-1.0)), "forces.weight=-1.0"),
        (LossSpec(energy=LossTerm(kind="huber", delta=0.0)), "energy.delta"),
        (LossSpec(stages=[LossStage(1.5, {})]), "start=1.5"),
        (LossSpec(stages=[LossStage(0.5, {"force": 1.0})]), "unknown target 'force'"),
        (LossSpec(energy=LossTerm(weight=0.0), forces=LossTerm(weight=0.0)), "every weight is zero"),
        (
            LossSpec(stress=LossTerm(weight=0.0), stages=[LossStage(0.5, {"stress": 5.0})]),
            "stages: stress has the weight 5.0, but no training frame carries stress",
        ),
        (
            LossSpec(stages=[LossStage(0.7, {"energy": 0.0}), LossStage(0.5, {"forces": 0.0})]),
            "stages: every weight is zero from start=0.7 on",
        ),
        (LossSpec(stages=[LossStage(0.5, {"energy": math.nan})]), "weight nan of energy"),
        (LossSpec(forces=LossTerm(weight=math.nan)), "forces.weight=nan"),
    ],
)
def test_what_is_refused(spec: LossSpec, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        Loss(spec, ("energy", "forces"))


def test_groups_are_named_as_they_are_written_or_by_their_number() -> None:
    weights = {1.1: 2.0, "solid": 3.0}
    assert [group_factor(weights, g) for g in ("1.10", "1.1", "1.12", "solid", "", "x")] == [2, 2, 1, 3, 1, 1]
    assert group_factor(None, "solid") == 1.0
    check_groups(weights, ["1.10", "solid", "liquid"])
    with pytest.raises(InputError, match=r"no training frame is of group 1.1; groups: 1.12, solid"):
        check_groups(weights, ["1.12", "solid"])


def test_a_prediction_that_is_not_finite_is_an_error_where_there_is_a_label(
    batch: Batch, prediction: Prediction
) -> None:
    """NaN in loss and score; where no label is, or no weight, neither loss nor gradient notices."""
    forces = prediction.forces.clone()
    forces[batch.frame == 1] = float("nan")
    forces.requires_grad_()
    bad = replace(prediction, forces=forces)
    spread = {"energy_rmse": 1.0, "force_rmse": 1.0}
    sums = ErrorSums(ALL)
    sums.update(bad, batch)
    assert math.isnan(Loss(LossSpec(), ALL)(bad, batch, 0.0)["loss"].item())
    assert relative_score(sums.compute(), spread) == math.inf
    labels = torch.where((batch.frame == 1)[:, None], float("nan"), batch.forces)
    for masked in (replace(batch, forces=labels), replace(batch, weight=torch.tensor([1.0, 0.0, 1.0]))):
        loss = Loss(LossSpec(), ALL)(bad, masked, 0.0)["loss"]
        (gradient,) = torch.autograd.grad(loss, forces)
        assert math.isfinite(loss.item())
        assert torch.isfinite(gradient).all()
    sums.reset()
    sums.update(bad, replace(batch, forces=labels))
    assert math.isfinite(relative_score(sums.compute(), spread))


def test_a_score_without_one_of_its_errors_is_never_the_best() -> None:
    assert relative_score({"energy_rmse": 2.0}, {"energy_rmse": 4.0, "force_rmse": 1.0}) == math.inf
    assert relative_score({"energy_rmse": 2.0, "force_rmse": 3.0}, {"energy_rmse": 4.0}) == 0.5
