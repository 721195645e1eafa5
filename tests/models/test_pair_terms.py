"""Core repulsion and dispersion beside any network: the contract, numbers of other programs, the choice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.data import covalent_radii
from ase.units import Bohr, Hartree
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from physics import E0S, SPECIES, ForceFieldContract, close, evaluate
from systems import crystal, ethanol, make_batch, moved
from torch import nn

from msmlff.app.budget_source import config_folder
from msmlff.app.config import build, check_overrides, register_resolvers
from msmlff.data.batch import Batch
from msmlff.data.configuration import Configuration
from msmlff.data.statistics import Statistics
from msmlff.data.store import FrameStore
from msmlff.errors import InputError
from msmlff.models import ANI, MSMACE, ANIArchitecture, ForceField, MSMACEArchitecture, build_model
from msmlff.models.files import load_model, save_model
from msmlff.models.import_mace import mace_input, mace_modules
from msmlff.models.pair_terms import Dispersion, pair_terms
from msmlff.models.start import start_statistics
from msmlff.nn.dispersion import SWITCH
from msmlff.nn.zbl import ZBL, Screening

REFERENCE = Path(__file__).parent / "reference"
#: Made-up coefficients of H, C, O; what is real comes from tad-dftd3 alone.
ROOTS = np.array([[1.3, 1.8, 0.0], [5.0, 4.2, 3.2], [2.7, 2.3, 0.0]])
TABLE: dict[str, Any] = {
    "s6": 1.0,
    "s8": 0.8,
    "a1": 0.4,
    "a2": 4.5,
    "coordination": [[0.9, 0.0, -1.0], [0.0, 1.0, 3.0], [0.0, 2.0, -1.0]],
    "c6": np.einsum("ia,jb->ijab", ROOTS, ROOTS).tolist(),
    "radii": [0.8, 1.9, 1.6],
    "r4r2": [2.0, 3.1, 2.6],
}
DISPERSION: dict[str, Any] = {"s8": 0.8, "a1": 0.4, "a2": 4.5, "cutoff": 7.5, "table": TABLE}
SCALES = (
    {"cutoff": 2.6, "channels": 4, "l_max": 2, "radial_mlp": [8]},
    {"cutoff": 4.4, "channels": 4, "l_max": 1, "radial_mlp": [8]},
)


def msmace(**keys: Any) -> MSMACE:
    statistics = Statistics((6.0, 15.0), (-1.0, -2.0, -3.0), 0.8)
    return MSMACE(SPECIES, E0S, MSMACEArchitecture(scales=SCALES, channels=4, **keys), statistics)


class TestZBL(ForceFieldContract):
    def make_model(self) -> MSMACE:
        return msmace(zbl=True)


class TestDispersion(ForceFieldContract):
    def make_model(self) -> MSMACE:
        return msmace(dispersion=DISPERSION)


class TestANIWithBoth(ForceFieldContract):
    def make_model(self) -> ANI:
        keys = {
            "cutoff": 4.4,
            "angular_cutoff": 3.2,
            "start": 0.6,
            "hidden": [16],
            "radial_eta": 4.0,
            "shift": "none",
        }
        return ANI(SPECIES, E0S, ANIArchitecture(**keys, zbl=True, dispersion=DISPERSION))


class Alone(ForceField):
    """Pair terms without a network."""

    def __init__(self, numbers: tuple[int, ...], *terms: nn.Module) -> None:
        super().__init__(numbers, [0.0] * len(numbers), [1.0], terms)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64

    def interaction_energies(self, vectors: torch.Tensor, batch: Batch) -> torch.Tensor:
        return vectors.new_zeros(batch.num_atoms)

    def features(self, batch: Batch) -> torch.Tensor:
        raise AssertionError("not used")

    def config(self) -> dict[str, Any]:
        return {}


def pair(a: int, b: int, length: float) -> Configuration:
    return Configuration(np.array([a, b]), np.array([[0.0, 0, 0], [length, 0, 0]]))


def test_zbl_with_the_constants_of_mace_torch_is_its() -> None:
    mace_modules()  # imported with care
    from mace.modules.radial import ZBLBasis

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        theirs = ZBLBasis(p=6)
    finally:
        torch.set_default_dtype(default)
    screening = Screening(
        (0.1818, 0.5099, 0.2802, 0.02817), (3.2, 0.9423, 0.4028, 0.2016), 0.4543 * 0.529, 0.3
    )
    model = Alone(SPECIES, ZBL(SPECIES, screening))
    for frame in (ethanol(), crystal()):
        frame = Configuration(frame.numbers, 0.5 * frame.positions, 0.5 * frame.cell, frame.pbc)
        batch = make_batch(model, frame)
        data = mace_input(batch, 3, torch.float64)
        lengths = model.edge_vectors(batch).norm(dim=1, keepdim=True)
        expected = theirs(lengths, data["node_attrs"], data["edge_index"], torch.tensor(SPECIES))
        assert expected.max() > 1.0
        # They take e^2 / (4 pi eps0) = 14.3996 eV Å.
        close(evaluate(model, frame).atomic_energies, expected, 1e-5)


def test_universal_screening_is_that_of_torchani() -> None:
    """scripts/make_ani_reference.py; it has no cutoff, and the length of screening in fewer digits."""
    with np.load(REFERENCE / "zbl.npz") as file:
        pairs, lengths, energies = file["pairs"].tolist(), file["lengths"], file["energies"]
    for (a, b), expected in zip(pairs, energies, strict=True):
        model = Alone((tuple(sorted({a, b}))), ZBL(sorted({a, b})))
        for length, energy in zip(lengths, expected, strict=True):
            x = length / (covalent_radii[a] + covalent_radii[b])
            envelope = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8 if x < 1 else 0.0
            found = evaluate(model, pair(a, b, length)).energy.item()
            assert found == pytest.approx(energy * envelope, rel=1e-3)


@pytest.mark.parametrize("numbers", [(1, 1), (1, 6), (6, 8), (8, 8)])
def test_close_pairs_repel_each_other(numbers: tuple[int, int]) -> None:
    """With random weights, which know nothing of that, and ever harder."""
    torch.manual_seed(3)
    model = msmace(zbl=True).double()
    forces = [evaluate(model, pair(*numbers, length)).forces[1, 0].item() for length in (0.3, 0.2, 0.1, 0.05)]
    assert forces[0] > 10
    assert forces == sorted(forces)


def test_zbl_ends_where_bonds_are() -> None:
    model = Alone(SPECIES, ZBL(SPECIES))
    assert evaluate(model, pair(6, 8, 0.99 * 1.42)).energy > 0
    assert evaluate(model, pair(6, 8, 1.001 * 1.42)).energy == 0
    assert model.cutoff == pytest.approx(2 * 0.76)


def test_dispersion_by_hand() -> None:
    """Two carbon atoms so far apart that neither counts as a neighbour of the other."""
    far = Dispersion(**{**DISPERSION, "cutoff": 20.0})
    model = Alone(SPECIES, *pair_terms(False, far, SPECIES))
    r, weights = 12.0 / Bohr, np.exp(-4.0 * np.array([0.0, 1.0, 9.0]))
    root = ROOTS[1] @ weights / weights.sum()
    r0 = np.sqrt(3.0) * 3.1
    damping = 0.4 * r0 + 4.5
    energy = -(root**2) * (1 / (r**6 + damping**6) + 0.8 * r0**2 / (r**8 + damping**8)) * Hartree
    found = evaluate(model, pair(6, 6, 12.0))
    assert found.energy.item() == pytest.approx(energy, rel=1e-4)
    assert found.forces[1, 0] < 0  # they attract each other


def test_dispersion_is_smooth_at_its_cutoff() -> None:
    model = Alone(SPECIES, *pair_terms(False, Dispersion(**DISPERSION), SPECIES))
    for border in (7.5 - SWITCH, 7.5):

        def change(step: float, border: float = border) -> float:
            before, at, after = (
                evaluate(model, pair(6, 8, border + d)).forces[0, 0].item() for d in (-step, 0.0, step)
            )
            return abs(after + before - 2 * at)

        assert change(0.02) < 0.6 * change(0.04)
    assert evaluate(model, pair(6, 8, 7.5 - 1e-3)).energy < 0
    assert evaluate(model, pair(6, 8, 7.5 + 1e-3)).energy == 0


@pytest.mark.parametrize("functional", ["pbe", "b3lyp"])
def test_dispersion_of_molecules_is_that_of_tad_dftd3(functional: str) -> None:
    d3 = pytest.importorskip("tad_dftd3")
    species = (1, 6, 8, 26)
    chosen = Dispersion(functional=functional, cutoff=30.0).for_species(species)
    model = Alone(species, *pair_terms(False, chosen, species))
    a, b = ethanol(), moved(ethanol(1), ethanol(1).positions + np.array([3.5, 2.0, 0.5]))
    iron = Configuration(np.array([26]), np.array([[-2.5, -2.0, 1.0]]))
    numbers = np.concatenate([f.numbers for f in (a, b, iron)])
    frame = Configuration(numbers, np.concatenate([f.positions for f in (a, b, iron)]))
    parameters = d3.param.get_functional_params(functional, damping="bj", dtype=torch.float64)
    parameters["s9"] = torch.tensor(0.0, dtype=torch.float64)
    positions = torch.tensor(frame.positions / Bohr, requires_grad=True)
    expected = d3.dftd3(torch.tensor(numbers), positions, parameters) * Hartree
    (gradient,) = torch.autograd.grad(expected.sum(), positions)
    ours = evaluate(model, frame)
    assert ours.energy < -0.1
    # to the digits in which the two know the bohr
    close(ours.atomic_energies, expected.detach(), 1e-8)
    close(ours.forces, -gradient / Bohr, 1e-8)


def test_dispersion_of_a_crystal_is_that_of_simple_dftd3() -> None:
    """scripts/make_d3_reference.py: 32 Å, as ours, but no smooth end."""
    pytest.importorskip("tad_dftd3")
    with np.load(REFERENCE / "d3.npz") as file:
        expected = dict(file)
    chosen = Dispersion(functional="pbe", cutoff=60.0 * Bohr).for_species((6, 8))
    model = Alone((6, 8), *pair_terms(False, chosen, (6, 8)))
    frame = Configuration(expected["numbers"], expected["positions"], expected["cell"], np.ones(3, bool))
    ours = evaluate(model, frame)
    assert ours.energy.item() == pytest.approx(float(expected["energy"]), rel=1e-5)
    np.testing.assert_allclose(ours.forces.numpy(), expected["forces"], atol=2e-5)


def test_the_model_file_needs_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps what was looked up, in all digits."""
    monkeypatch.setitem(sys.modules, "tad_dftd3", None)
    torch.manual_seed(0)
    model = msmace(zbl=True, dispersion=DISPERSION)
    loaded = load_model(save_model(model, tmp_path / "model.safetensors", {}))
    assert loaded.cutoff == 7.5
    assert torch.equal(evaluate(loaded, ethanol()).energy, evaluate(model, ethanol()).energy)


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tad_dftd3", None)
    with pytest.raises(InputError, match=r"tad-dftd3.*pip install 'msmlff\[dispersion\]'"):
        msmace(dispersion={"functional": "pbe"})


def test_pair_terms_have_no_weights() -> None:
    torch.manual_seed(0)
    plain = msmace()
    torch.manual_seed(0)
    assert msmace(zbl=True, dispersion=DISPERSION).state_dict().keys() == plain.state_dict().keys()


def test_neighbours_beyond_the_network_change_nothing_in_it() -> None:
    """The network with a tail is the network plus the tail."""
    torch.manual_seed(0)
    whole = msmace(zbl=True, dispersion=DISPERSION).double()
    network = msmace().double()
    network.load_state_dict(whole.state_dict())
    tail = Alone(SPECIES, *pair_terms(True, Dispersion(**DISPERSION), SPECIES))
    for frame in (ethanol(), crystal()):
        parts = [evaluate(model, frame) for model in (network, tail)]
        assert parts[1].forces.abs().max() > 1e-3
        close(evaluate(whole, frame).energy, parts[0].energy + parts[1].energy)
        close(evaluate(whole, frame).forces, parts[0].forces + parts[1].forces)


def test_statistics_are_those_of_what_is_left_to_learn(tmp_path: Path) -> None:
    """Labels that are E0s, pair terms, 0.7 eV an atom and forces of 0.3 eV/Å."""
    architecture = MSMACEArchitecture(scales=SCALES, channels=4, zbl=True, dispersion=DISPERSION)
    tail = Alone(SPECIES, *pair_terms(True, Dispersion(**DISPERSION), SPECIES))
    frames = []
    for seed in range(4):
        frame = ethanol(seed)
        given = evaluate(tail, frame)
        energy = given.energy.item() + sum(E0S[z] + 0.7 for z in frame.numbers.tolist())
        sign = np.random.default_rng(seed).choice([-1.0, 1.0], frame.positions.shape)
        forces = given.forces.numpy() + 0.3 * sign
        frames.append(Configuration(frame.numbers, frame.positions, energy=energy, forces=forces))
    store = FrameStore.build(frames, tmp_path)
    found = start_statistics(architecture, store, E0S)
    np.testing.assert_allclose(found.shift, 0.7, atol=1e-5)
    assert found.scale == pytest.approx(0.3, rel=1e-5)
    plain = start_statistics(MSMACEArchitecture(scales=SCALES, channels=4), store, E0S)
    assert found.neighbors == plain.neighbors
    assert abs(plain.scale - 0.3) > 1e-3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"zbl": "yes"}, r"model\.zbl is 'yes'; write true or false"),
        ({"dispersion": True}, r"model\.dispersion is True; write null or, as \{functional: pbe"),
        ({"dispersion": {"functionals": "pbe"}}, r"its keys, which are functional, cutoff, s6"),
        ({"dispersion": {"s8": 1.0}}, r"model\.dispersion has no a1, a2: write them, or a functional"),
        ({"dispersion": {}}, r"model\.dispersion has no s8, a1, a2"),
        ({"dispersion": {"functional": "pbe", "s8": 1.0}}, r"write the one or the others"),
        ({"dispersion": {"functional": 3}}, r"model\.dispersion\.functional is 3"),
        (
            {"dispersion": {"functional": "pbe", "cutoff": 1.5}},
            r"cutoff is 1\.5; write a number of Å above 2",
        ),
        ({"dispersion": {"s8": 1.0, "a1": "x", "a2": 4.0}}, r"model\.dispersion\.a1 is 'x'; write a number"),
    ],
)
def test_bad_keys_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MSMACEArchitecture(scales=SCALES, **keys)


def test_a_table_of_other_species_is_refused() -> None:
    with pytest.raises(InputError, match=r"table has 3 species, the model 1"):
        MSMACE([1], [0.0], MSMACEArchitecture(scales=SCALES, dispersion=DISPERSION))


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"functional": "no-such"}, r"functional is 'no-such', for which tad-dftd3 has no")],
)
def test_what_tad_dftd3_does_not_know(keys: dict[str, Any], message: str) -> None:
    pytest.importorskip("tad_dftd3")
    with pytest.raises(InputError, match=message):
        Dispersion(**keys).for_species(SPECIES)
    with pytest.raises(InputError, match=r"D3 knows no atomic numbers \[110\]"):
        Dispersion(functional="pbe").for_species([1, 110])


@pytest.mark.parametrize("name", ["ani", "mace", "msmace", "nequip", "msnequip"])
def test_every_model_has_the_choice(name: str) -> None:
    register_resolvers()
    overrides = [
        f"model={name}",
        "model.zbl=true",
        "model.dispersion={s8: 0.7875, a1: 0.4289, a2: 4.4407, cutoff: 9.0}",
    ]
    check_overrides("train", overrides)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=overrides)
    architecture = build(config.model, "model")
    assert architecture.dispersion == Dispersion(s8=0.7875, a1=0.4289, a2=4.4407, cutoff=9.0)
    pytest.importorskip("tad_dftd3")
    model = build_model(architecture, [1, 6], [0.0, 0.0])
    assert [type(term).__name__ for term in model.pair_terms] == ["ZBL", "D3"]
    assert model.cutoff == 9.0
    torch.manual_seed(0)
    forces = evaluate(model, pair(1, 6, 0.2)).forces
    assert forces[1, 0] > 10
    assert evaluate(model, pair(1, 6, 7.0)).energy < 0
