"""The contract of force fields, for each kind of MACE; and what is special to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from physics import E0S, SPECIES, ForceFieldContract, evaluate
from systems import crystal, ethanol, hydrogen, make_batch

from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models import MACE, MSMACE, MACEArchitecture, MSMACEArchitecture, Scale

SHORT = {"cutoff": 2.6, "channels": 8, "l_max": 3, "radial_mlp": [8, 8]}
LONG = {"cutoff": 4.4, "channels": 4, "l_max": 1, "radial_mlp": [6, 8]}


def one_scale(
    cutoff: float, l_max: int, channels: int, radial_mlp: tuple[int, ...], **more
) -> MACEArchitecture:
    return MACEArchitecture(cutoff=cutoff, l_max=l_max, channels=channels, radial_mlp=radial_mlp, **more)


class TestMACE(ForceFieldContract):
    def make_model(self) -> MACE:
        statistics = Statistics((9.0,), (-1.0, -2.0, -3.0), 0.8)
        return MACE(SPECIES, E0S, one_scale(4.0, 2, 6, (8, 8)), statistics)


class TestMSMACE(ForceFieldContract):
    def make_model(self) -> MSMACE:
        statistics = Statistics((6.0, 15.0), (-1.0, -2.0, -3.0), 0.8)
        architecture = MSMACEArchitecture(scales=(SHORT, LONG), channels=6, hidden_l_max=1)
        return MSMACE(SPECIES, E0S, architecture, statistics)


class TestThreeScales(ForceFieldContract):
    """Scalar features, a scale with l = 0 between two others, summed."""

    def make_model(self) -> MSMACE:
        middle = Scale(3.5, 5, 0, (8,))
        statistics = Statistics((15.0, 10.0, 6.0), (0.0, 0.0, 0.0), 1.0)
        scales = (LONG, middle, {**SHORT, "l_max": 2})
        architecture = MSMACEArchitecture(scales=scales, channels=6, layers=3, correlation=2, merge="sum")
        return MSMACE(SPECIES, E0S, architecture, statistics)


def test_one_scale_is_mace() -> None:
    torch.manual_seed(0)
    mace = MACE([1], [0.0], one_scale(3.0, 2, 8, (8,))).double()
    scale = {"cutoff": 3.0, "channels": 8, "l_max": 2, "radial_mlp": [8]}
    one = MSMACE([1], [0.0], MSMACEArchitecture(scales=(scale,), channels=8)).double()
    one.load_state_dict(mace.state_dict())
    frame = hydrogen()
    assert torch.equal(evaluate(one, frame).forces, evaluate(mace, frame).forces)


def test_training_after_features_in_inference_mode() -> None:
    torch.manual_seed(0)
    model = MACE([1], [0.0], one_scale(3.0, 2, 4, (4,))).double()
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
    model = MSMACE(SPECIES, E0S, MSMACEArchitecture(scales=(SHORT, LONG), channels=6)).double()
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
        model = MACE(SPECIES, E0S, one_scale(5.0, 1, 4, (8,), shift=shift), statistics)
        energies.append(evaluate(model.double(), crystal()).energy.item())
    assert energies[1] - energies[0] == pytest.approx(-2.5 * 8 * expected, rel=1e-3)


def test_merge_mean_is_half_the_sum_before_the_product() -> None:
    torch.manual_seed(0)
    architecture = MSMACEArchitecture(scales=(SHORT, LONG), channels=4, layers=1, correlation=1)
    mean = MSMACE(SPECIES, E0S, architecture).double()
    total = MSMACE(SPECIES, E0S, replace(architecture, merge="sum")).double()
    total.load_state_dict(mean.state_dict())
    e0 = sum(E0S[z] for z in ethanol().numbers.tolist())
    interaction = [evaluate(m, ethanol()).energy.item() - e0 for m in (mean, total)]
    assert interaction[1] == pytest.approx(2 * interaction[0], rel=1e-9)


def test_neighbor_norm_sqrt_divides_by_the_root_of_each_scale() -> None:
    torch.manual_seed(0)
    architecture = MSMACEArchitecture(scales=(SHORT, LONG), channels=4, neighbor_norm="sqrt")
    zeros = (0.0, 0.0, 0.0)
    root = MSMACE(SPECIES, E0S, architecture, Statistics((9.0, 25.0), zeros, 1.0)).double()
    mean = MSMACE(
        SPECIES, E0S, replace(architecture, neighbor_norm="mean"), Statistics((3.0, 5.0), zeros, 1.0)
    ).double()
    mean.load_state_dict(root.state_dict())
    torch.testing.assert_close(evaluate(root, ethanol()).forces, evaluate(mean, ethanol()).forces)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neighbor_norm": "rms"}, r"model\.neighbor_norm is 'rms'; choose one of mean, sqrt"),
        ({"merge": "max"}, r"model\.merge is 'max'; choose one of mean, sum"),
        ({"shift": "average"}, r"model\.shift is 'average'"),
        ({"hidden_l_max": 4}, r"model\.hidden_l_max is 4, above .* of 3"),
        ({"layers": 0}, r"model\.layers is 0; it must be a whole number of at least 1"),
        ({"channels": "many"}, r"model\.channels is 'many'"),
        ({"num_bessel": 8.0}, r"model\.num_bessel is 8\.0"),
        ({"residual_first": "no"}, r"model\.residual_first is 'no'; write true or false"),
        (
            {"scales": [SHORT, {"cutoff": 3.0, "channel": 8, "l_max": 1}]},
            r"model\.scales\[1\] is .*keys are cutoff",
        ),
        ({"scales": []}, r"model\.scales is empty"),
        ({"scales": [{**SHORT, "cutoff": -1.0}]}, r"model\.scales\[0\]\.cutoff is -1\.0; .* Å"),
        ({"scales": [LONG, {**SHORT, "radial_mlp": []}]}, r"model\.scales\[1\]\.radial_mlp is \[\]"),
        ({"scales": [{**SHORT, "radial_mlp": [8, 0]}]}, r"model\.scales\[0\]\.radial_mlp is 0"),
    ],
)
def test_bad_keys_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MSMACEArchitecture(**{"scales": (SHORT, LONG), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutoff": 0}, r"model\.cutoff is 0"),
        ({"l_max": -1}, r"model\.l_max"),
        ({"hidden_l_max": 4}, "hidden_l_max"),
    ],
)
def test_bad_keys_of_one_scale_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MACEArchitecture(**{"cutoff": 3.0, **change})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"atomic_numbers": [8, 1]}, "ascending"),
        ({"e0s": {1: 0.0}}, "e0s"),
        ({"statistics": Statistics((1.0,), (0.0,), 1.0)}, "statistics"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], named: str) -> None:
    arguments = {
        "atomic_numbers": SPECIES,
        "e0s": E0S,
        "architecture": MSMACEArchitecture(scales=(SHORT, LONG)),
    }
    with pytest.raises(InputError, match=named):
        MSMACE(**{**arguments, **change})
