"""ANI: the contract of force fields, torchani's numbers, and what is special to it."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.data import chemical_symbols
from physics import E0S, SPECIES, ForceFieldContract, close, evaluate
from systems import crystal, ethanol, make_batch
from torch.autograd import gradcheck, gradgradcheck

from msmlff.data.configuration import Configuration
from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models import ANI, ANIArchitecture
from msmlff.models.ani import ElementNetwork
from msmlff.nn.symmetry_functions import AngularSum, CosineCutoff, species_pairs

SMALL = {"cutoff": 4.4, "angular_cutoff": 3.2, "start": 0.6, "hidden": [24, 16]}


def small(**changes: Any) -> ANI:
    statistics = Statistics((9.0, 20.0), (-0.02, -0.04, -0.06), 0.8)
    return ANI(SPECIES, E0S, ANIArchitecture(**{**SMALL, **changes}), statistics)


class TestANI(ForceFieldContract):
    def make_model(self) -> ANI:
        return small()


class TestInChunks(ForceFieldContract):
    """Triples that are worked on in parts and computed again in the backward pass."""

    def make_model(self) -> ANI:
        model = small(activation="celu", shift="none")
        model.functions.max_triples = 40
        return model


def reference(name: str) -> tuple[dict[str, Any], list[Configuration], dict[str, np.ndarray]]:
    """Settings, frames and numbers of torchani (scripts/make_ani_reference.py)."""
    with np.load(Path(__file__).parent / "reference" / f"{name}.npz") as file:
        content = dict(file)
    settings = json.loads(str(content["settings"])) | {"cutoff_function": "cosine"}
    frames = []
    for i in (0, 1):
        numbers, positions, cell, pbc = (content[f"{k}_{i}"] for k in ("numbers", "positions", "cell", "pbc"))
        frames.append(Configuration(numbers, positions, cell, pbc))
    return settings, frames, content


@pytest.mark.parametrize("name", ["ani_2x", "ani_celu", "ani_gelu"])
def test_environment_vectors_are_those_of_torchani(name: str) -> None:
    settings, frames, content = reference(name)
    numbers = settings.pop("numbers")
    model = ANI(numbers, [0.0] * len(numbers), ANIArchitecture(**settings)).double()
    for i, frame in enumerate(frames):
        batch = make_batch(model, frame)
        ours = model.environments(model.edge_vectors(batch), batch).detach().numpy()
        assert np.abs(ours).max() > 0.1
        np.testing.assert_allclose(ours, content[f"aev_{i}"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["ani_celu", "ani_gelu"])
def test_energies_and_forces_are_those_of_torchani(name: str) -> None:
    """Its networks have an energy for atoms without neighbours; ours take that as the shift."""
    settings, frames, content = reference(name)
    numbers = settings.pop("numbers")
    architecture = ANIArchitecture(**settings, shift="constant")
    networks, alone = [], []
    for z in numbers:
        network = ElementNetwork(content["aev_0"].shape[1], settings["hidden"], settings["activation"])
        weights = {
            key.removeprefix(f"{chemical_symbols[z]}."): torch.from_numpy(value)
            for key, value in content.items()
            if key.startswith(f"{chemical_symbols[z]}.")
        }
        bias = weights.pop("final_layer.bias")
        weights["readout.weight"] = weights.pop("final_layer.weight")
        network.double().load_state_dict(weights)
        networks.append(network)
        with torch.no_grad():
            alone.append((network(torch.zeros(1, content["aev_0"].shape[1]).double()) + bias).item())
    statistics = Statistics((1.0, 1.0), tuple(alone), 1.0)
    model = ANI(numbers, [0.0] * len(numbers), architecture, statistics).double()
    model.networks = torch.nn.ModuleList(networks)
    for i, frame in enumerate(frames):
        ours = evaluate(model, frame)
        close(ours.energy.item(), content[f"energy_{i}"].item(), 1e-10)
        assert np.abs(content[f"forces_{i}"]).max() > 0.01
        close(ours.forces, content[f"forces_{i}"], 1e-10)


def test_atoms_in_line_have_finite_forces() -> None:
    model = small().double()
    line = Configuration(np.array([8, 6, 8]), np.array([[0.0, 0, 0], [0, 0, 1.2], [0, 0, 2.4]]))
    prediction = model.train()(make_batch(model, line))
    prediction.forces.square().sum().backward()
    assert prediction.forces.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_every_pair_of_neighbours_once() -> None:
    counts = torch.tensor([[0, 0], [1, 0], [3, 2], [0, 4], [200, 1]])
    first, second, pointer = species_pairs(counts)
    begin = 0
    found = list(zip(first.tolist(), second.tolist(), strict=True))
    for atom, (a, b) in enumerate(counts.tolist()):
        places = range(begin, begin + a + b)
        expected = [
            {(i, j) for i, j in combinations(places, 2) if (i - begin >= a) + (j - begin >= a) == number}
            for number in range(3)  # of neighbours of the second species
        ]
        for pair in range(3):
            got = found[pointer[3 * atom + pair] : pointer[3 * atom + pair + 1]]
            assert len(got) == len(expected[pair])
            assert {(min(p), max(p)) for p in got} == expected[pair]
        begin += a + b


def test_derivatives_of_the_angular_sum() -> None:
    """First and second, against finite differences; the contract tests them in the model alone."""
    torch.manual_seed(0)
    functions = AngularSum(small().architecture.grid)
    pointer = torch.tensor([0, 3, 3, 7])
    inputs = [
        torch.empty(7).double().uniform_(-0.95, 0.95),
        torch.empty(7).double().uniform_(0.7, 3.0),
        torch.rand(7).double(),
    ]
    inputs = [value.requires_grad_() for value in inputs]

    def function(*values: torch.Tensor) -> torch.Tensor:
        return functions(*values, pointer)

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_chunks_change_nothing() -> None:
    torch.manual_seed(0)
    model = small().double()
    batch = make_batch(model, ethanol(), crystal())
    results = []
    for limit in (10**6, 60, 1):
        model.functions.max_triples = limit
        model.zero_grad()
        prediction = model.train()(batch)
        prediction.forces.pow(2).sum().backward()
        results.append([prediction.energy, prediction.forces, *(p.grad.clone() for p in model.parameters())])
    for other in results[1:]:
        for value, expected in zip(other, results[0], strict=True):
            close(value, expected, 1e-12)


def test_a_network_for_each_element() -> None:
    """The weights of one element's network change the energies of its atoms alone."""
    torch.manual_seed(0)
    model = small().double()
    frame = ethanol()
    before = evaluate(model, frame).atomic_energies
    with torch.no_grad():
        model.networks[1].readout.weight.mul_(2.0)
    changed = (evaluate(model, frame).atomic_energies != before).numpy()
    assert (changed == (frame.numbers == 6)).all()


@pytest.mark.parametrize(("shift", "expected"), [("environment", 1.0), ("constant", 1.0), ("none", 0.0)])
def test_shift_is_the_whole_one_inside_matter(shift: str, expected: float) -> None:
    energies = []
    for value in (0.0, -2.5):
        torch.manual_seed(0)
        model = ANI(
            SPECIES, E0S, ANIArchitecture(**SMALL, shift=shift), Statistics((1.0, 1.0), (value,) * 3, 1.0)
        )
        energies.append(evaluate(model.double(), crystal()).energy.item())
    assert energies[1] - energies[0] == pytest.approx(-2.5 * 8 * expected, rel=0.02)


def test_cosine_is_the_cutoff_of_the_authors() -> None:
    cutoff = CosineCutoff(4.0)
    close(cutoff(torch.tensor([0.0, 1.0, 2.0, 4.0, 9.0])), [1.0, 0.5 + 0.125**0.5, 0.5, 0.0, 0.0], 1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutoff": -1}, r"model\.cutoff is -1; it must be a positive number of Å"),
        ({"angular_cutoff": "long"}, r"model\.angular_cutoff is 'long'"),
        ({"angular_cutoff": 5.0}, r"model\.angular_cutoff is 5\.0, above model\.cutoff of 4\.4: lower it"),
        ({"start": 3.2}, r"model\.start is 3\.2, not below model\.angular_cutoff"),
        ({"radial_eta": 0}, r"model\.radial_eta is 0; it must be a positive number of 1/Å²"),
        ({"zeta": 0.5}, r"model\.zeta is 0\.5; it must be a number of at least 1"),
        ({"angles": 0}, r"model\.angles is 0; it must be a whole number"),
        ({"radial_shifts": 3.5}, r"model\.radial_shifts is 3\.5"),
        ({"hidden": []}, r"model\.hidden is \[\]; it must be a list of one or more"),
        ({"hidden": 64}, r"model\.hidden is 64"),
        ({"hidden": [64, 0]}, r"model\.hidden is 0"),
        ({"activation": "relu"}, r"model\.activation is 'relu'; choose one of gelu, celu"),
        ({"cutoff_function": "tanh"}, r"model\.cutoff_function is 'tanh'; choose one of polynomial, cosine"),
        ({"cutoff_power": 1}, r"model\.cutoff_power is 1"),
        ({"shift": "average"}, r"model\.shift is 'average'"),
    ],
)
def test_bad_keys_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ANIArchitecture(**{**SMALL, **change})


def test_bad_statistics_are_named() -> None:
    with pytest.raises(InputError, match="2 cutoffs and 3 species"):
        ANI(SPECIES, E0S, ANIArchitecture(**SMALL), Statistics((1.0,), (0.0,), 1.0))


def test_the_last_radial_function_is_where_ani_2x_has_it() -> None:
    model = ANI([1], [0.0], ANIArchitecture(cutoff=5.1, angular_cutoff=3.5))
    assert len(model.functions.grid.radial_shifts) == 16
    assert model.functions.grid.radial_shifts[-1] == pytest.approx(4.83125)
