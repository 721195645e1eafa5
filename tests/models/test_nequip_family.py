"""The contract of force fields for NequIP and MS-NequIP, and what is special to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from physics import E0S, SPECIES, ForceFieldContract, evaluate
from systems import crystal, ethanol, hydrogen, make_batch

from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models import MSNequIP, MSNequIPArchitecture, NequIP, NequIPArchitecture, Scale, build_model
from msmlff.models.files import load_model, save_model

SHORT = {"cutoff": 2.6, "channels": 8, "l_max": 2, "radial_mlp": [8, 8]}
LONG = {"cutoff": 4.4, "channels": 4, "l_max": 1, "radial_mlp": [6, 8]}
ZEROS = (0.0, 0.0, 0.0)


class TestNequIP(ForceFieldContract):
    def make_model(self) -> NequIP:
        architecture = NequIPArchitecture(cutoff=4.0, l_max=2, channels=6, layers=3, radial_mlp=(8,))
        return NequIP(SPECIES, E0S, architecture, Statistics((9.0,), (-1.0, -2.0, -3.0), 0.8))


class TestMSNequIP(ForceFieldContract):
    """Features of higher l than the long scale's harmonics."""

    def make_model(self) -> MSNequIP:
        statistics = Statistics((6.0, 15.0), (-1.0, -2.0, -3.0), 0.8)
        architecture = MSNequIPArchitecture(scales=(SHORT, LONG), channels=6, hidden_l_max=2, layers=3)
        return MSNequIP(SPECIES, E0S, architecture, statistics)


class TestThreeScales(ForceFieldContract):
    """A scale with l = 0 between two others, summed; one neighbour norm, no shift, a hidden readout."""

    def make_model(self) -> MSNequIP:
        architecture = MSNequIPArchitecture(
            scales=(LONG, Scale(3.5, 5, 0, (8,)), SHORT),
            channels=6,
            layers=2,
            merge="sum",
            neighbor_norm="mean",
            shift="none",
            readout_hidden=7,
        )
        return MSNequIP(SPECIES, E0S, architecture, Statistics((15.0, 10.0, 6.0), ZEROS, 5.0))


def test_one_scale_is_nequip() -> None:
    torch.manual_seed(0)
    nequip = NequIP([1], [0.0], NequIPArchitecture(cutoff=3.0, l_max=2, channels=8, radial_mlp=(8,)))
    scale = {"cutoff": 3.0, "channels": 8, "l_max": 2, "radial_mlp": [8]}
    one = MSNequIP([1], [0.0], MSNequIPArchitecture(scales=(scale,), channels=8, hidden_l_max=2))
    one.double().load_state_dict(nequip.double().state_dict())
    frame = hydrogen()
    assert torch.equal(evaluate(one, frame).forces, evaluate(nequip, frame).forces)


def test_long_scale_takes_the_short_edges_too() -> None:
    torch.manual_seed(0)
    model = MSNequIP(SPECIES, E0S, MSNequIPArchitecture(scales=(SHORT, LONG), channels=6)).double()
    frame = hydrogen(2, box=20.0)
    frame = replace(frame, positions=torch.tensor([[0.0, 0, 0], [0.8, 0, 0]]).double().numpy())
    before = evaluate(model, frame).energy
    with torch.no_grad():
        model.layers[0].scales[1].radial_weight.mul_(2.0)
    assert abs((evaluate(model, frame).energy - before).item()) > 1e-6


def test_scales_meet_before_the_gate() -> None:
    """The mean of two scales of equal weights is one of them; their sum is another function."""
    torch.manual_seed(0)
    one = MSNequIP(SPECIES, E0S, MSNequIPArchitecture(scales=(SHORT,), channels=6, hidden_l_max=2)).double()
    two = MSNequIP(
        SPECIES, E0S, MSNequIPArchitecture(scales=(SHORT, SHORT), channels=6, hidden_l_max=2)
    ).double()
    state = one.state_dict()
    state |= {k.replace("scales.0", "scales.1"): v for k, v in state.items() if ".scales.0." in k}
    two.load_state_dict(state)
    torch.testing.assert_close(evaluate(two, ethanol()).forces, evaluate(one, ethanol()).forces)
    total = build_model(replace(two.architecture, merge="sum"), SPECIES, E0S).double()
    total.load_state_dict(state)
    assert not torch.allclose(evaluate(total, ethanol()).forces, evaluate(one, ethanol()).forces, rtol=0.01)


def test_neighbor_norm_is_the_root_unless_told_otherwise() -> None:
    torch.manual_seed(0)
    architecture = MSNequIPArchitecture(scales=(SHORT, LONG), channels=4)
    root = MSNequIP(SPECIES, E0S, architecture, Statistics((9.0, 25.0), ZEROS, 1.0)).double()
    mean = MSNequIP(
        SPECIES, E0S, replace(architecture, neighbor_norm="mean"), Statistics((3.0, 5.0), ZEROS, 1.0)
    ).double()
    mean.load_state_dict(root.state_dict())
    torch.testing.assert_close(evaluate(root, ethanol()).forces, evaluate(mean, ethanol()).forces)


def test_more_species_than_the_first_layer_sums_over() -> None:
    """The same weights for three species, in a model that knows two more."""
    torch.manual_seed(0)
    architecture = NequIPArchitecture(cutoff=4.0, l_max=2, channels=4, layers=2, radial_mlp=(8,))
    three = NequIP(SPECIES, E0S, architecture).double()
    five = NequIP([1, 6, 7, 8, 9], {**E0S, 7: 0.0, 9: 0.0}, architecture).double()
    state, known = three.state_dict(), [0, 1, 3]
    for name, value in five.state_dict().items():
        if value.shape == state[name].shape:
            value.copy_(state[name])
        else:  # embedding; self-connection, divided by the root of the number of species
            value[known] = state[name] * (1.0 if name == "embedding" else (5 / 3) ** 0.5)
    for frame in (ethanol(), crystal()):
        torch.testing.assert_close(evaluate(five, frame).forces, evaluate(three, frame).forces)


@pytest.mark.parametrize("layers", [1, 2])
def test_features_of_all_layers(layers: int) -> None:
    torch.manual_seed(0)
    architecture = NequIPArchitecture(cutoff=4.0, channels=5, layers=layers, radial_mlp=(8,))
    model = NequIP(SPECIES, E0S, architecture).double()
    features = model.features(make_batch(model, ethanol(), crystal()))
    assert features.shape == (17, 5 * layers)
    assert features.std(dim=0).min() > 1e-4


@pytest.mark.parametrize("make", [TestNequIP().make_model, TestMSNequIP().make_model])
def test_model_file(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make()
    path = save_model(model, tmp_path / "model.safetensors", {"label_level": "test"})
    loaded = load_model(path, dtype=torch.float64)
    assert type(loaded) is type(model)
    assert loaded.architecture == model.architecture
    assert torch.equal(evaluate(loaded, ethanol()).forces, evaluate(model.double(), ethanol()).forces)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neighbor_norm": "rms"}, r"model\.neighbor_norm is 'rms'; choose one of mean, sqrt"),
        ({"merge": "max"}, r"model\.merge is 'max'; choose one of mean, sum"),
        ({"shift": "average"}, r"model\.shift is 'average'"),
        ({"hidden_l_max": 3}, r"model\.hidden_l_max is 3, above .* of 2"),
        ({"hidden_l_max": -1}, r"model\.hidden_l_max is -1; it must be a whole number of at least 0"),
        ({"layers": 0}, r"model\.layers is 0; it must be a whole number of at least 1"),
        ({"channels": "many"}, r"model\.channels is 'many'"),
        ({"cutoff_power": 1}, r"model\.cutoff_power is 1; it must be a whole number of at least 2"),
        ({"readout_hidden": -1}, r"model\.readout_hidden is -1; it must be a whole number of at least 0"),
        ({"scales": []}, r"model\.scales is empty"),
        ({"scales": SHORT}, r"model\.scales is \{.*\}; give a list"),
        ({"scales": [SHORT, {**LONG, "cutoff": 0}]}, r"model\.scales\[1\]\.cutoff is 0; .* Å"),
        ({"scales": [{**SHORT, "channel": 3}]}, r"model\.scales\[0\] is .*keys are cutoff"),
    ],
)
def test_bad_keys_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MSNequIPArchitecture(**{"scales": (SHORT, LONG), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutoff": 0}, r"model\.cutoff is 0"),
        ({"l_max": -1}, r"model\.l_max is -1"),
        ({"radial_mlp": []}, r"model\.radial_mlp is \[\]"),
        ({"num_bessel": 8.0}, r"model\.num_bessel is 8\.0"),
    ],
)
def test_bad_keys_of_one_scale_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NequIPArchitecture(**{"cutoff": 3.0, **change})


def test_keys_of_the_many_body_product_are_not_nequips() -> None:
    for key in ("correlation", "residual_first"):
        with pytest.raises(TypeError, match=key):
            NequIPArchitecture(**{"cutoff": 3.0, key: 1})
