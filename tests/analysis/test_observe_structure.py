"""What the structural observables show of a trajectory: angles by elements, shells, order."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from msmlff.analysis.observe_structure import TRIPLES, first_shells, observe_adf, observe_order
from msmlff.analysis.observed import ObserveSettings, Subject
from msmlff.analysis.trajectory import Trajectory
from msmlff.errors import InputError


def subject(atoms: Atoms, shake: float = 0.0, frames: int = 6, seed: int = 0, **settings) -> Subject:
    rng = np.random.default_rng(seed)
    paths = atoms.positions + shake * rng.normal(size=(frames, len(atoms), 3))
    cell = np.broadcast_to(atoms.cell.array, (frames, 3, 3))
    trajectory = Trajectory(atoms.numbers, paths, cell, np.array(atoms.pbc), interval_fs=10.0)
    return Subject(trajectory, ObserveSettings(**settings))


def test_angles_of_each_triple_of_elements():
    found = observe_adf(subject(molecule("CH3OH")))
    assert list(found.curves) == ["all", "H-C-H", "H-C-O", "H-O-C"]
    for angle, name in ((108.5, "H-C-H"), (108.0, "H-O-C")):
        assert found.quantities[f"mean angle of {name}"].value == pytest.approx(angle, abs=2.0)
    assert list(observe_adf(subject(molecule("NH3"))).curves) == ["all"]  # of one triple alone
    with pytest.raises(InputError, match=r"settings\.cutoff"):
        observe_adf(subject(molecule("N2")))


def test_of_many_triples_the_most_frequent():
    rng = np.random.default_rng(0)
    atoms = bulk("Ni", "fcc", 3.52, cubic=True).repeat(2)
    atoms.numbers = rng.choice([26, 27, 28], size=len(atoms))
    found = observe_adf(subject(atoms, cutoff=3.0))
    assert len(found.curves) == 1 + TRIPLES
    assert f"Of 18 triples of elements the {TRIPLES} with the most angles" in found.notes[1]


@pytest.mark.parametrize(
    ("structure", "q4", "q6"), [("fcc", 0.1909, 0.5745), ("hcp", 0.0972, 0.4848), ("bcc", 0.0364, 0.5107)]
)
def test_order_of_crystals_without_any_setting(structure, q4, q6):
    ideal = {"covera": np.sqrt(8 / 3)} if structure == "hcp" else {}
    atoms = bulk("Fe", structure, 2.8, **ideal).repeat(3)
    atoms.rotate(35, (1, 2, 3), rotate_cell=True)
    found = observe_order(subject(atoms)).quantities
    assert found["q4"].value == pytest.approx(q4, abs=1e-4)
    assert found["q6"].value == pytest.approx(q6, abs=1e-4)


def test_shells_of_several_short_runs_are_those_of_all():
    atoms = bulk("Ni", "fcc", 3.52, cubic=True).repeat(2)
    runs = [subject(atoms, 0.12, frames=2, seed=seed) for seed in range(4)]
    assert first_shells(runs)[28, 28] == pytest.approx(3.0, abs=0.15)  # between 2.49 and 3.52 Å
