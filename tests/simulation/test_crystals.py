"""Perfect crystals: published values of two EAM potentials, and geometry."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.eam import EAM
from ase.calculators.emt import EMT
from ase.neighborlist import neighbor_list
from toys import Pairs

from msmlff.errors import InputError, MSMLFFError
from msmlff.simulation import MSMLFFCalculator
from msmlff.simulation.crystals import IDEAL, SQRT3, crystal, relaxed_crystals
from msmlff.simulation.relax import RelaxSettings, relax


@pytest.mark.parametrize(
    ("structure", "ratio", "neighbours"),
    [("fcc", IDEAL, 12), ("bcc", IDEAL, 8), ("hcp", IDEAL, 12), ("hcp", 1.55, 6), ("hcp", SQRT3, 6)],
)
def test_bond_is_the_distance_of_nearest_neighbours(structure: str, ratio: float, neighbours: int) -> None:
    atoms = crystal(structure, "Ni", 2.5, ratio)
    lengths = neighbor_list("d", atoms, 2.5 + 1e-6)
    assert len(lengths) == neighbours * len(atoms)
    np.testing.assert_allclose(lengths, 2.5)
    if structure == "hcp":
        assert atoms.cell.lengths()[2] / atoms.cell.lengths()[0] == pytest.approx(ratio)


# Bond length in Å and energy in eV per atom, of the potentials' files; the last row of each as in arXiv
# 2311.05407, where the hcp cell keeps c/a = sqrt(3).
PUBLISHED = {
    ("Ni-Nb_1.eam.fs", "Ni"): [(2.486, -4.8763), (2.409, -4.8333), (2.479, -4.8628), (2.44, -4.847)],
    ("Al1.eam.fs", "Al"): [(2.860, -3.4107), (2.805, -3.3088), (2.845, -3.3831), (2.82, -3.380)],
}


@pytest.mark.parametrize(("file", "element"), PUBLISHED)
def test_eam_crystals_are_the_published_ones(reference_data: Path, file: str, element: str) -> None:
    rows = relaxed_crystals(element, EAM(potential=str(reference_data / "eam" / file)))
    assert [row.structure for row in rows] == ["fcc", "bcc", "hcp", "hcp, c/a = √3"]
    for row, (bond, energy) in zip(rows, PUBLISHED[file, element], strict=True):
        digits = 0.5 if row.held else 0.05  # what is printed
        assert row.bond == pytest.approx(bond, abs=0.011 * digits + 1e-4), row.structure
        assert row.energy == pytest.approx(energy, abs=1.1e-3 * digits + 1e-6), row.structure
    assert np.isnan(rows[0].ratio)
    assert 1.4 < rows[2].ratio < 1.9
    assert rows[3].ratio == SQRT3


def test_the_minimum_is_that_of_a_relaxation_by_stress() -> None:
    rows = relaxed_crystals("Cu", EMT())
    for row in rows:
        assert row.atoms.calc is None
        start = row.atoms.copy()
        start.set_cell(start.cell * 1.01, scale_atoms=True)
        cell = "isotropic" if row.held else "full"
        if row.structure == "bcc":
            continue  # no minimum under shear
        found = relax(start, EMT(), RelaxSettings(cell=cell, fmax=1e-4, stress_GPa=1e-4))
        assert found.energy / len(start) == pytest.approx(row.energy, abs=1e-6)
        nearest = neighbor_list("d", found.atoms, 1.2 * row.bond).min()
        assert nearest == pytest.approx(row.bond, abs=1e-3)


def test_a_guess_far_off_or_a_repulsion_is_named() -> None:
    with pytest.raises(MSMLFFError, match=r"Cu: fcc has no minimum .* bond=LENGTH") as without:
        relaxed_crystals("Cu", EMT(), guess=4.5)
    assert not isinstance(without.value, InputError)  # the input was right, there is nothing to be found
    with pytest.raises(MSMLFFError, match="no minimum"):
        relaxed_crystals("H", MSMLFFCalculator(Pairs()))
    with pytest.raises(InputError, match="'Nix' is no chemical symbol"):
        relaxed_crystals("Nix", EMT())


class OnlyFcc(EMT):
    """EMT of a metal that blows up where the lattice is not fcc."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=()) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, properties, system_changes)
        if len(atoms) > 1 or not np.allclose(atoms.cell.angles(), 60.0):
            self.results["energy"] = -atoms.get_volume()


class Hole(EMT):
    """EMT whose energy falls without end below a bond length of about 2.2 Å."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=()) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, properties, system_changes)
        side = (atoms.get_volume() / len(atoms)) ** (1 / 3)
        self.results["energy"] -= 5e3 * len(atoms) * max(0.0, 2.0 - side) ** 2


def test_a_hole_elsewhere_does_not_take_the_minimum_away() -> None:
    rows = relaxed_crystals("Cu", Hole())
    for row, right in zip(rows, relaxed_crystals("Cu", EMT()), strict=True):
        assert row.bond == pytest.approx(right.bond, abs=1e-6)
        assert row.energy == pytest.approx(right.energy, abs=1e-9)
        assert np.isnan(right.lower)
        assert 1.5 < row.lower < 2.2
        assert row.as_json()["lower_at_A"] == row.lower


class TwoWells(Calculator):
    """eV per atom: -1 at 2.3 Å per atom (cube root of the volume) and -1.05 at 1.9 Å; hcp gains 0.14 eV where
    c/a grows from its ideal value to 1.75."""

    implemented_properties: ClassVar[list[str]] = ["energy"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=()) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, properties, system_changes)
        side = (atoms.get_volume() / len(atoms)) ** (1 / 3)
        energy = min(20 * (side - 2.3) ** 2 - 1.0, 20 * (side - 1.9) ** 2 - 1.05)
        if len(atoms) == 2:
            a, _, c = atoms.cell.lengths()
            energy += 10 * ((c / a - 1.75) ** 2 - (IDEAL - 1.75) ** 2)
        self.results["energy"] = len(atoms) * energy


def test_a_hole_is_one_below_the_relaxed_crystal() -> None:
    """Deeper than hcp at the ideal c/a, and not than hcp with its own."""
    rows = relaxed_crystals("Cu", TwoWells())
    assert rows[2].ratio == pytest.approx(1.75, abs=1e-3)
    assert rows[2].energy == pytest.approx(-1.0 - 10 * (IDEAL - 1.75) ** 2, abs=1e-6)
    assert [np.isnan(row.lower) for row in rows] == [False, False, True, False]


def test_a_structure_without_a_minimum_does_not_hide_the_others() -> None:
    rows = relaxed_crystals("Cu", OnlyFcc())
    assert [bool(row.problem) for row in rows] == [False, True, True, True]
    assert rows[0].as_json()["bond_A"] == pytest.approx(relaxed_crystals("Cu", EMT())[0].bond)
    assert "no minimum" in rows[1].as_json()["problem"]
    assert np.isnan(rows[1].energy)


def test_a_crystal_as_a_record() -> None:
    row = relaxed_crystals("Cu", EMT())[2]
    assert isinstance(row.atoms, Atoms)
    assert row.as_json() == {
        "structure": "hcp", "bond_A": row.bond, "energy_eV": row.energy, "c/a": row.ratio,
    }  # fmt: skip
