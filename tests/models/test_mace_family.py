"""The contract of force fields, for each kind of MACE; and what is special to it."""

from __future__ import annotations

import pytest
import torch
from physics import E0S, SPECIES, ForceFieldContract, evaluate
from systems import crystal, ethanol, hydrogen, make_batch

from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models import MACE, MSMACE, Scale

SHORT = {"cutoff": 2.6, "channels": 8, "l_max": 3, "radial_mlp": [8, 8]}
LONG = {"cutoff": 4.4, "channels": 4, "l_max": 1, "radial_mlp": [6, 8]}


class TestMACE(ForceFieldContract):
    def make_model(self) -> MACE:
        statistics = Statistics((9.0,), (-1.0, -2.0, -3.0), 0.8)
        return MACE(SPECIES, E0S, 4.0, l_max=2, channels=6, radial_mlp=[8, 8], statistics=statistics)


class TestMSMACE(ForceFieldContract):
    def make_model(self) -> MSMACE:
        statistics = Statistics((6.0, 15.0), (-1.0, -2.0, -3.0), 0.8)
        return MSMACE(SPECIES, E0S, [SHORT, LONG], channels=6, hidden_l_max=1, statistics=statistics)


class TestThreeScales(ForceFieldContract):
    """Scalar features, a scale with l = 0 between two others, summed."""

    def make_model(self) -> MSMACE:
        middle = Scale(3.5, 5, 0, (8,))
        statistics = Statistics((15.0, 10.0, 6.0), (0.0, 0.0, 0.0), 1.0)
        scales = [LONG, middle, {**SHORT, "l_max": 2}]
        return MSMACE(
            SPECIES, E0S, scales, channels=6, layers=3, correlation=2, merge="sum", statistics=statistics
        )


def test_one_scale_is_mace() -> None:
    torch.manual_seed(0)
    mace = MACE([1], [0.0], 3.0, l_max=2, channels=8, radial_mlp=[8]).double()
    scale = {"cutoff": 3.0, "channels": 8, "l_max": 2, "radial_mlp": [8]}
    one = MSMACE([1], [0.0], [scale], channels=8).double()
    one.load_state_dict(mace.state_dict())
    frame = hydrogen()
    assert torch.equal(evaluate(one, frame).forces, evaluate(mace, frame).forces)


def test_training_after_features_in_inference_mode() -> None:
    torch.manual_seed(0)
    model = MACE([1], [0.0], 3.0, l_max=2, channels=4, radial_mlp=[4]).double()
    batch = make_batch(model, hydrogen())
    with torch.inference_mode():
        model.features(batch)
    model.train()(batch).forces.square().sum().backward()
    gradients = [p.grad for name, p in model.named_parameters() if name.endswith("radial_weight")]
    assert gradients
    assert all(g is not None and bool(g.any()) for g in gradients)


def test_long_scale_takes_the_short_edges_too() -> None:
    """With its only neighbour below the short cutoff, an atom still depends on the long scale's weights."""
    torch.manual_seed(0)
    model = MSMACE(SPECIES, E0S, [SHORT, LONG], channels=6).double()
    frame = hydrogen(2, box=20.0)
    frame = type(frame)(frame.numbers, torch.tensor([[0.0, 0, 0], [0.8, 0, 0]]).double().numpy())
    before = evaluate(model, frame).energy
    with torch.no_grad():
        model.layers[0].scales[1].radial_weight.mul_(2.0)
    assert abs((evaluate(model, frame).energy - before).item()) > 1e-6


@pytest.mark.parametrize(("shift", "expected"), [("environment", 1.0), ("constant", 1.0), ("none", 0.0)])
def test_shift_is_the_whole_one_inside_matter(shift: str, expected: float) -> None:
    torch.manual_seed(0)
    energies = []
    for value in (0.0, -2.5):
        torch.manual_seed(0)
        statistics = Statistics((20.0,), (value,) * 3, 1.0)
        model = MACE(
            SPECIES, E0S, 5.0, channels=4, l_max=1, radial_mlp=[8], statistics=statistics, shift=shift
        )
        energies.append(evaluate(model.double(), crystal()).energy.item())
    assert energies[1] - energies[0] == pytest.approx(-2.5 * 8 * expected, rel=1e-3)


def test_merge_mean_is_half_the_sum_before_the_product() -> None:
    torch.manual_seed(0)
    mean = MSMACE(SPECIES, E0S, [SHORT, LONG], channels=4, layers=1, correlation=1).double()
    total = MSMACE(SPECIES, E0S, [SHORT, LONG], channels=4, layers=1, correlation=1, merge="sum").double()
    total.load_state_dict(mean.state_dict())
    e0 = sum(E0S[z] for z in ethanol().numbers.tolist())
    interaction = [evaluate(m, ethanol()).energy.item() - e0 for m in (mean, total)]
    assert interaction[1] == pytest.approx(2 * interaction[0], rel=1e-9)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"merge": "max"}, "model.merge"),
        ({"shift": "average"}, "model.shift"),
        ({"hidden_l_max": 4}, "hidden_l_max"),
        ({"layers": 0}, "layers"),
        ({"scales": [{"cutoff": 3.0, "channel": 8, "l_max": 1}]}, "channel"),
        ({"scales": []}, "cutoffs"),
        ({"scales": [{**SHORT, "cutoff": -1.0}]}, "cutoff"),
        ({"scales": [{**SHORT, "radial_mlp": []}]}, "radial_mlp"),
        ({"atomic_numbers": [8, 1]}, "ascending"),
        ({"e0s": {1: 0.0}}, "e0s"),
        ({"statistics": Statistics((1.0,), (0.0,), 1.0)}, "statistics"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], named: str) -> None:
    arguments: dict[str, object] = {"atomic_numbers": SPECIES, "e0s": E0S, "scales": [SHORT, LONG]}
    with pytest.raises(InputError, match=named):
        MSMACE(**{**arguments, **change})  # type: ignore[arg-type]
