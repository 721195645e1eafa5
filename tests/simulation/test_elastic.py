"""Elastic constants: published values of EAM potentials, symmetry, relations of cubic crystals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import Calculator
from ase.calculators.eam import EAM
from ase.calculators.emt import EMT
from ase.optimize import LBFGS
from ase.units import GPa
from scipy.spatial.transform import Rotation

from msmlff.errors import InputError
from msmlff.simulation.crystals import crystal
from msmlff.simulation.elastic import VOIGT, Elastic, elastic_constants
from msmlff.simulation.relax import RelaxSettings, relax

GUESS = {"Cu": 2.55, "Ni": 2.49, "Al": 2.86}


def relaxed(element: str, structure: str, calculator: Calculator) -> Atoms:
    """A primitive cell; bcc, which would not stay so, at its own volume."""
    cell = "isotropic" if structure == "bcc" else "full"
    settings = RelaxSettings(cell=cell, fmax=1e-4, stress_GPa=1e-3)
    start = crystal(structure, element, GUESS[element] * (0.97 if structure == "bcc" else 1.0))
    found = relax(start, calculator, settings)
    assert found.converged
    return found.atoms


def cubic(tensor: np.ndarray) -> tuple[float, float, float]:
    """C11, C12, C44, after a check that there is nothing else."""
    c11, c12, c44 = tensor[0, 0], tensor[0, 1], tensor[3, 3]
    expected = np.zeros((6, 6))
    expected[:3, :3] = c12
    expected[np.arange(3), np.arange(3)] = c11
    expected[np.arange(3, 6), np.arange(3, 6)] = c44
    np.testing.assert_allclose(tensor, expected, atol=0.02 * c11)
    return c11, c12, c44


def by_energy(atoms: Atoms, calculator: Calculator, step: float = 2e-3) -> np.ndarray:
    """[6, 6] GPa, second differences of the energy by strains, for a crystal whose atoms sit by symmetry."""

    def energy(strain: np.ndarray) -> float:
        matrix = np.eye(3)
        for (i, j), value in zip(VOIGT, strain, strict=True):
            matrix[i, j] += value / 2
            matrix[j, i] += value / 2
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ matrix, scale_atoms=True)
        strained.calc = calculator
        return float(strained.get_potential_energy())

    unit = step * np.eye(6)
    found = np.empty((6, 6))
    for i in range(6):
        for j in range(6):
            corners = [a * b * energy(a * unit[i] + b * unit[j]) for a in (1, -1) for b in (1, -1)]
            found[i, j] = sum(corners) / (4 * step**2)
    return found / atoms.get_volume() / GPa


@pytest.mark.parametrize("structure", ["fcc", "bcc"])
def test_stresses_and_energies_give_the_same_constants(structure: str) -> None:
    """ASE's EMT; bcc copper is unstable."""
    atoms = relaxed("Cu", structure, EMT())
    found = elastic_constants(atoms, EMT())
    np.testing.assert_allclose(found.tensor, by_energy(atoms, EMT()), atol=0.6)
    c11, c12, c44 = cubic(found.tensor)
    assert found.asymmetry < 0.01 * c11
    assert found.pressure == pytest.approx(0.0, abs=0.05)
    assert found.stable == (structure == "fcc") == (c11 > c12 and c44 > 0)
    assert found.moduli()["bulk_voigt"] == pytest.approx((c11 + 2 * c12) / 3, rel=1e-3)


# What the potentials were fitted to (GPa): Al, and Ni, of experiment.
MEASURED = {("Al1.eam.fs", "Al"): (114.0, 62.0, 32.0), ("Ni-Nb_1.eam.fs", "Ni"): (250.0, 151.0, 123.0)}


@pytest.mark.parametrize(("file", "element"), MEASURED)
def test_eam_constants_are_near_those_it_was_fitted_to(reference_data: Path, file: str, element: str) -> None:
    calculator = EAM(potential=str(reference_data / "eam" / file))
    atoms = relaxed(element, "fcc", calculator)
    found = elastic_constants(atoms, calculator)
    np.testing.assert_allclose(cubic(found.tensor), MEASURED[file, element], rtol=0.15)


@pytest.mark.parametrize("structure", ["fcc", "hcp"])
def test_another_program_finds_the_same(reference_data: Path, structure: str) -> None:
    """matscipy fits stresses over strains, with the atoms relaxed; EAM nickel, its own EAM."""
    eam = pytest.importorskip("matscipy.calculators.eam")
    elasticity = pytest.importorskip("matscipy.elasticity")
    calculator = eam.EAM(str(reference_data / "eam" / "Ni-Nb_1.eam.fs"), kind="eam/fs")
    atoms = relaxed("Ni", structure, calculator)
    found = elastic_constants(atoms, calculator, fmax=1e-6)
    atoms.calc = calculator
    expected, _ = elasticity.fit_elastic_constants(
        atoms, N_steps=3, delta=2e-3, optimizer=LBFGS, fmax=1e-6, verbose=False, graphics=False, logfile=None
    )
    np.testing.assert_allclose(found.tensor, expected / GPa, atol=0.5)


def test_atoms_relax_at_each_strain() -> None:
    """In silicon-like cells clamped atoms would be too stiff: hcp's two atoms move under shear."""
    atoms = relaxed("Cu", "hcp", EMT())
    free, clamped = elastic_constants(atoms, EMT()).tensor, by_energy(atoms, EMT())
    assert free[0, 0] < clamped[0, 0] - 1.0
    assert free[2, 2] == pytest.approx(clamped[2, 2], abs=0.6)  # along c they stay by symmetry
    assert free[5, 5] == pytest.approx((free[0, 0] - free[0, 1]) / 2, rel=0.01)  # hexagonal


def test_the_tensor_turns_with_the_crystal() -> None:
    atoms = relaxed("Cu", "fcc", EMT())
    plain = elastic_constants(atoms, EMT())
    matrix = Rotation.random(random_state=2).as_matrix()
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ matrix.T, scale_atoms=True)
    found = elastic_constants(turned, EMT())
    index = {pair: k for k, (i, j) in enumerate(VOIGT) for pair in ((i, j), (j, i))}
    full = np.array(
        [
            [[[plain.tensor[index[i, j], index[k, l]] for l in range(3)] for k in range(3)] for j in range(3)]
            for i in range(3)
        ]
    )
    rotated = np.einsum("ia,jb,kc,ld,abcd->ijkl", matrix, matrix, matrix, matrix, full)
    for p, (i, j) in enumerate(VOIGT):
        for q, (k, l) in enumerate(VOIGT):
            assert found.tensor[p, q] == pytest.approx(rotated[i, j, k, l], abs=0.8)
    for name, value in plain.moduli().items():
        assert found.moduli()[name] == pytest.approx(value, rel=0.01), name


def test_moduli_of_cubic_and_isotropic_crystals() -> None:
    """Textbook formulas: Voigt and Reuss of a cubic crystal, and Lamé's constants."""
    c11, c12, c44 = 168.4, 121.4, 75.4  # copper
    tensor = np.zeros((6, 6))
    tensor[:3, :3] = c12
    tensor[np.arange(3), np.arange(3)] = c11
    tensor[np.arange(3, 6), np.arange(3, 6)] = c44
    found = Elastic(tensor, 0.0, 0.0).moduli()
    bulk = (c11 + 2 * c12) / 3
    voigt = (c11 - c12 + 3 * c44) / 5
    reuss = 5 * (c11 - c12) * c44 / (4 * c44 + 3 * (c11 - c12))
    assert found["bulk_voigt"] == pytest.approx(bulk)
    assert found["bulk_reuss"] == pytest.approx(bulk)
    assert found["shear_voigt"] == pytest.approx(voigt)
    assert found["shear_reuss"] == pytest.approx(reuss)
    assert found["shear_hill"] == pytest.approx((voigt + reuss) / 2)
    young, poisson = 200.0, 0.3
    lame, shear = young * poisson / (1 + poisson) / (1 - 2 * poisson), young / 2 / (1 + poisson)
    isotropic = np.zeros((6, 6))
    isotropic[:3, :3] = lame
    isotropic += np.diag([2 * shear] * 3 + [shear] * 3)
    found = Elastic(isotropic, 0.0, 0.0).moduli()
    assert (found["young"], found["poisson"]) == (pytest.approx(young), pytest.approx(poisson))
    assert found["shear_reuss"] == pytest.approx(found["shear_voigt"]) == pytest.approx(shear)
    assert np.isnan(Elastic(np.zeros((6, 6)), 0.0, 0.0).moduli()["bulk_reuss"])


def test_pressure_is_recorded_and_makes_copper_stiffer() -> None:
    atoms = relaxed("Cu", "fcc", EMT())
    squeezed = atoms.copy()
    squeezed.set_cell(atoms.cell * 0.97, scale_atoms=True)
    found = elastic_constants(squeezed, EMT())
    squeezed.calc = EMT()
    assert found.pressure == pytest.approx(-squeezed.get_stress()[:3].mean() / GPa)
    assert found.pressure > 10
    assert found.tensor[0, 0] > elastic_constants(atoms, EMT()).tensor[0, 0] + 20


def test_what_has_no_constants_is_named() -> None:
    with pytest.raises(InputError, match="periodic crystal"):
        elastic_constants(fcc111("Cu", (1, 1, 2), vacuum=5.0), EMT())
    with pytest.raises(InputError, match=r"strain=0\.5"):
        elastic_constants(bulk("Cu"), EMT(), strain=0.5)
    rattled = bulk("Cu", cubic=True).repeat(2)
    rattled.rattle(0.2, seed=1)
    with pytest.raises(InputError, match=r"after 1 steps a force of .* relax it first"):
        elastic_constants(rattled, EMT(), steps=1)
