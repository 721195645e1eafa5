"""Relaxation with ASE's EMT, whose crystals are known, and with a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.eos import EquationOfState
from ase.units import GPa
from toys import Pairs

from msmlff.errors import DivergenceError, InputError
from msmlff.models import MACE, MACEArchitecture
from msmlff.sampling import random_packing
from msmlff.simulation import MSMLFFCalculator
from msmlff.simulation.relax import RelaxSettings, relax


def copper(size: int = 1) -> Atoms:
    return bulk("Cu", cubic=True).repeat(size)


def lattice_constant(pressure_gpa: float = 0.0) -> float:
    """Å, fcc copper in EMT, from energies alone: the minimum of E + pV of a fitted equation of state."""
    volumes, energies = [], []
    for a in np.linspace(3.4, 3.7, 13):
        atoms = bulk("Cu", a=a, cubic=True)
        atoms.calc = EMT()
        volumes.append(atoms.get_volume())
        energies.append(atoms.get_potential_energy() + pressure_gpa * GPa * atoms.get_volume())
    volume, _, _ = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()
    return float(volume ** (1 / 3))


@pytest.mark.parametrize("optimizer", ["lbfgs", "bfgs", "fire"])
def test_positions_come_to_rest_at_a_fixed_cell(optimizer: str) -> None:
    atoms = copper(2)
    perfect = atoms.copy()
    perfect.calc = EMT()
    atoms.rattle(0.08, seed=3)
    before = atoms.copy()
    found = relax(atoms, EMT(), RelaxSettings(fmax=1e-3, optimizer=optimizer))
    assert found.converged
    assert found.fmax <= 1e-3
    assert np.linalg.norm(found.atoms.get_forces(), axis=1).max() == pytest.approx(found.fmax)
    assert found.energy == pytest.approx(perfect.get_potential_energy(), abs=1e-5)
    assert found.start_energy > found.energy + 0.01
    assert np.isnan(found.stress_GPa)
    np.testing.assert_array_equal(found.atoms.cell, before.cell)
    np.testing.assert_array_equal(atoms.positions, before.positions)
    assert atoms.calc is None


@pytest.mark.parametrize("pressure", [0.0, 20.0, -2.0])
@pytest.mark.parametrize("cell", ["isotropic", "full"])
def test_the_cell_finds_its_size_at_a_pressure(cell: str, pressure: float) -> None:
    atoms = copper()
    atoms.set_cell(atoms.cell * 1.03, scale_atoms=True)
    settings = RelaxSettings(cell=cell, pressure_GPa=pressure, fmax=1e-3, stress_GPa=1e-3)
    found = relax(atoms, EMT(), settings)
    assert found.converged
    np.testing.assert_allclose(found.atoms.cell.lengths(), lattice_constant(pressure), rtol=2e-4)
    mean = found.atoms.get_stress()[:3].mean() / GPa
    assert mean == pytest.approx(-pressure, abs=1e-3)


def test_only_a_full_relaxation_finds_the_shape() -> None:
    atoms = copper()
    atoms.set_cell(atoms.cell * [1.0, 1.0, 1.03] + np.array([[0, 0.1, 0], [0, 0, 0], [0, 0, 0]]), True)
    isotropic = relax(atoms, EMT(), RelaxSettings(cell="isotropic"))
    full = relax(atoms, EMT(), RelaxSettings(cell="full", fmax=1e-3, stress_GPa=1e-3))
    ratio = isotropic.atoms.cell.lengths()
    assert ratio[2] / ratio[0] == pytest.approx(atoms.cell.lengths()[2] / atoms.cell.lengths()[0])
    np.testing.assert_allclose(full.atoms.cell.lengths(), lattice_constant(), rtol=2e-4)
    np.testing.assert_allclose(full.atoms.cell.angles(), 90.0, atol=0.02)
    assert full.energy < isotropic.energy - 1e-3


def test_constraints_are_kept_and_a_slab_keeps_its_cell() -> None:
    slab = fcc111("Cu", (2, 2, 3), vacuum=5.0)
    slab.pbc = (True, True, False)
    slab.rattle(0.05, seed=1)
    slab.set_constraint(FixAtoms(indices=[0, 1]))
    found = relax(slab, EMT(), RelaxSettings(fmax=0.02))
    assert found.converged
    np.testing.assert_array_equal(found.atoms.positions[:2], slab.positions[:2])
    with pytest.raises(InputError, match=r"periodic in all directions.*cell=none"):
        relax(slab, EMT(), RelaxSettings(cell="full"))


def test_too_few_steps_are_said() -> None:
    atoms = copper(2)
    atoms.rattle(0.1, seed=0)
    found = relax(atoms, EMT(), RelaxSettings(fmax=1e-6, steps=3))
    assert not found.converged
    assert found.steps == 3
    assert found.fmax > 1e-6


def test_a_structure_at_rest_takes_no_step() -> None:
    atoms = copper()
    found = relax(atoms, EMT(), RelaxSettings(fmax=0.01))
    assert (found.converged, found.steps) == (True, 0)


def test_results_are_those_of_the_structure_whatever_the_calculator_does_next() -> None:
    calculator, atoms = EMT(), copper(2)
    atoms.rattle(0.05, seed=3)
    first = relax(atoms, calculator, RelaxSettings(steps=1))
    relax(copper(), calculator, RelaxSettings())
    assert first.results["forces"].shape == (len(atoms), 3)
    again = first.atoms.copy()
    again.calc = EMT()
    np.testing.assert_allclose(first.results["forces"], again.get_forces(), atol=1e-12)
    assert first.energy == pytest.approx(again.get_potential_energy())


def test_a_cell_that_flies_apart_is_an_error() -> None:
    """Atoms that only push each other away, under tension."""
    atoms = Atoms("H", cell=np.eye(3) * 1.5, pbc=True)
    settings = RelaxSettings(cell="isotropic", pressure_GPa=-50.0, optimizer="fire")
    with pytest.raises(DivergenceError, match="volume became"):
        relax(atoms, MSMLFFCalculator(Pairs()), settings)


def test_a_model_relaxes_positions_and_cell() -> None:
    torch.manual_seed(0)
    architecture = MACEArchitecture(cutoff=2.5, channels=4, l_max=2, correlation=2, layers=2)
    model = MACE([1, 8], [-1.0, -2.0], architecture).double()
    atoms = random_packing(["H"] * 8 + ["O"] * 4, 1.2, min_distance=1.0, seed=1).to_ase()
    found = relax(atoms, MSMLFFCalculator(model), RelaxSettings(cell="full", steps=5, fmax=1e-8))
    assert found.energy < found.start_energy
    assert found.stress_GPa > 0


class Along(Calculator):
    """Energy and force as functions of the distance of two atoms; they need not fit together."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, energy: Callable[[float], float], pull: Callable[[float], float]) -> None:
        super().__init__()
        self.of = energy, pull

    def calculate(self, atoms: Atoms, *_: Any) -> None:  # type: ignore[override]
        vector = atoms.positions[1] - atoms.positions[0]
        distance = float(np.linalg.norm(vector))
        force = self.of[1](distance) * vector / distance
        self.results = {"energy": self.of[0](distance), "forces": np.array([force, -force])}


def pair(distance: float) -> Atoms:
    return Atoms("Ni2", [[0, 0, 0], [0, 0, distance]])


def test_an_energy_that_rose_is_marked() -> None:
    found = relax(pair(2.0), Along(lambda r: r, lambda r: r - 3.0), RelaxSettings())
    assert found.converged
    assert found.rose
    assert not relax(pair(2.0), Along(lambda r: -r, lambda r: r - 3.0), RelaxSettings()).rose


def test_under_pressure_it_is_the_enthalpy_that_counts() -> None:
    atoms = copper()
    found = relax(atoms, EMT(), RelaxSettings(cell="isotropic", pressure_GPa=20.0))
    assert found.energy > found.start_energy + 0.1
    assert not found.rose


def test_atoms_that_fall_onto_each_other_are_no_result() -> None:
    """What models do where they were not trained: they bind atoms in one place, or without end."""
    with pytest.raises(DivergenceError, match=r"Ni 0 and Ni 1 are 0\.9 Å apart, 0\.36 of the sum"):
        relax(pair(2.5), Along(lambda r: (r - 0.9) ** 2, lambda r: 2 * (r - 0.9)), RelaxSettings(fmax=1e-4))
    with pytest.raises(DivergenceError, match=r"-1e\+07 eV per atom"):
        relax(pair(2.5), Along(lambda r: -2e7, lambda r: 0.0), RelaxSettings())


def test_atoms_that_overlap_are_pushed_apart_first() -> None:
    """An atom beside another one, its site empty: a perfect crystal comes out."""
    crystal = copper(2)
    crystal.calc = EMT()
    atoms = crystal.copy()
    atoms.positions[5] = atoms.positions[3] + [0.0, 0.0, 0.2]
    found = relax(atoms, EMT(), RelaxSettings())
    assert found.converged
    assert found.pushed == pytest.approx(0.2)
    assert found.energy == pytest.approx(crystal.get_potential_energy(), abs=1e-3)
    assert np.isnan(relax(crystal, EMT(), RelaxSettings()).pushed)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cell": "shape"}, "cell='shape': write one of none, isotropic, full"),
        ({"optimizer": "newton"}, "lbfgs, bfgs, fire"),
        ({"fmax": 0.0}, "fmax=0.0"),
        ({"stress_GPa": -1.0}, "stress_GPa"),
        ({"pressure_GPa": float("nan"), "cell": "full"}, "pressure_GPa"),
        ({"pressure_GPa": 5.0}, "does nothing at a fixed cell"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_bad_settings_are_named(changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        RelaxSettings(**changes)
