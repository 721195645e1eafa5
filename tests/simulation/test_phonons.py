"""Phonons: chains and crystals whose frequencies are known; skipped where phonopy is not installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.units import fs, kg, m

from msmlff.errors import InputError
from msmlff.simulation.crystals import crystal
from msmlff.simulation.elastic import elastic_constants
from msmlff.simulation.phonons import PhononSettings, phonons
from msmlff.simulation.relax import RelaxSettings, relax

needs_phonopy = pytest.mark.skipif(find_spec("phonopy") is None, reason="phonopy is not installed")


def copper(structure: str = "fcc") -> Atoms:
    cell = "isotropic" if structure == "bcc" else "full"
    start = crystal(structure, "Cu", 2.47 if structure == "bcc" else 2.55)
    return relax(start, EMT(), RelaxSettings(cell=cell, fmax=1e-4, stress_GPa=1e-3)).atoms


class Springs(Calculator):
    """Neighbours in a simple cubic lattice of spacing 2 Å, joined by springs of k eV/Å² in all directions:
    each Cartesian component is a chain."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def calculate(self, atoms=None, properties=("energy",), system_changes=()) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, properties, system_changes)
        shape = np.round(atoms.cell.lengths() / 2.0).astype(int)
        sites = np.round(atoms.positions / 2.0).astype(int)
        moved = atoms.positions - 2.0 * sites
        at = np.zeros((*shape, 3))
        at[tuple((sites % shape).T)] = moved
        force = sum(np.roll(at, s, axis) - at for axis in range(3) for s in (1, -1))
        self.results = {"energy": 0.0, "forces": self.k * force[tuple((sites % shape).T)]}


@needs_phonopy
def test_a_lattice_of_springs_has_the_textbook_dispersion() -> None:
    """m w² = 2 k sum_a (1 - cos q_a), three times."""
    k, mass = 3.0, 40.0
    atoms = Atoms("Ar", cell=np.eye(3) * 2.0, pbc=True, masses=[mass])
    found = phonons(atoms, Springs(k), PhononSettings(length=8.0, points=60, mesh=6))
    assert found.supercell == (4, 4, 4)
    path = atoms.cell.bandpath(npoints=60).kpts
    square = 2 * k / mass * (1 - np.cos(2 * np.pi * path)).sum(axis=1)
    expected = np.sqrt(square) / (2 * np.pi) * fs * 1e3  # THz
    np.testing.assert_allclose(found.frequencies, np.repeat(expected[:, None], 3, axis=1), atol=1e-4)
    assert found.stable


@needs_phonopy
def test_slopes_at_the_centre_are_the_speeds_of_sound() -> None:
    """sqrt(C11 / density) and sqrt(C44 / density) along [100] of fcc copper in EMT."""
    atoms = copper()
    constants = elastic_constants(atoms, EMT()).tensor
    found = phonons(atoms, EMT(), PhononSettings(length=14.0, points=400, mesh=8))
    labels = [name for _, name in found.labels]
    start = labels.index("G")
    end = found.labels[start + 1][0]
    assert labels[start + 1] == "X"
    near = (found.distances > 0.02 * end) & (found.distances < 0.2 * end)
    speed = found.frequencies[near] / found.distances[near, None] * 2 * np.pi * 100.0  # THz Å to m/s
    density = atoms.get_masses().sum() / atoms.get_volume() * (m**3 / kg)
    modulus = constants * 1e9
    assert speed[:, 2].mean() == pytest.approx(np.sqrt(modulus[0, 0] / density), rel=0.03)
    assert speed[:, 0].mean() == pytest.approx(np.sqrt(modulus[3, 3] / density), rel=0.03)
    assert found.stable
    assert found.frequencies.shape == (400, 3)
    assert found.density @ np.full(len(found.grid), found.grid[1] - found.grid[0]) == pytest.approx(
        3, rel=0.02
    )
    assert 0.01 < found.zero_point < 0.06


@needs_phonopy
def test_an_unstable_crystal_has_imaginary_frequencies() -> None:
    found = phonons(copper("bcc"), EMT(), PhononSettings(length=9.0, mesh=6))
    assert found.lowest < -0.5
    assert not found.stable
    assert found.as_json()["stable"] is False


@needs_phonopy
def test_hcp_has_optical_branches_and_as_many_states_as_coordinates() -> None:
    found = phonons(copper("hcp"), EMT(), PhononSettings(length=9.0, points=50, mesh=6))
    assert found.frequencies.shape == (50, 6)
    gamma = int(np.argmin(np.abs(found.frequencies).sum(axis=1)))
    assert np.abs(found.frequencies[gamma, :3]).max() < 0.05
    assert found.frequencies[gamma, 3:].min() > 1.0


@needs_phonopy
def test_bad_structures_are_named() -> None:
    with pytest.raises(InputError, match="periodic crystal"):
        phonons(fcc111("Cu", (1, 1, 2), vacuum=5.0), EMT())
    rattled = bulk("Cu", cubic=True)
    rattled.rattle(0.1, seed=1)
    with pytest.raises(InputError, match=r"a force is .* relax it first"):
        phonons(rattled, EMT())


def test_without_phonopy_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phonopy", None)
    with pytest.raises(InputError, match=r"msmlff\[phonons\]"):
        phonons(bulk("Cu"), EMT())


@pytest.mark.parametrize(("key", "value"), [("length", -1.0), ("mesh", 1), ("displacement", 0.0)])
def test_bad_settings_are_named(key: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"phonons\.{key}"):
        PhononSettings(**{key: value})  # type: ignore[arg-type]
