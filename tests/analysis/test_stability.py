"""The three stability times on motion whose end is known."""

import numpy as np
import pytest
from ase import Atoms

from msmlff.analysis.stability import bond_lengths, bond_stability, rdf_stability, stability_curves
from msmlff.analysis.structure import bonds
from msmlff.analysis.trajectory import Trajectory
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError

BOX = np.eye(3) * 12.0


def chains(stretch: np.ndarray, wrap: bool = False) -> Trajectory:
    """Two N2 molecules; the bond of the second is 1.1 Å + ``stretch`` [frames], along the cell's diagonal."""
    frames = len(stretch)
    paths = np.zeros((frames, 4, 3))
    paths[:, 1, 0] = 1.1
    along = np.ones(3) / np.sqrt(3)
    paths[:, 2] = 5.5
    paths[:, 3] = 5.5 + (1.1 + stretch)[:, None] * along
    paths += 5.8  # so that the second molecule crosses the boundary
    if wrap:
        paths %= 12.0
    return Trajectory(
        np.full(4, 7), paths, np.broadcast_to(BOX, (frames, 3, 3)), np.ones(3, bool), interval_fs=2.0
    )


@pytest.mark.parametrize("wrap", [False, True])
def test_a_bond_that_breaks_ends_the_run(wrap):
    stretch = np.concatenate([0.1 * np.sin(np.arange(50)), np.linspace(0, 7.0, 100)])
    run = chains(stretch, wrap)
    half = bond_stability(run)
    first = np.flatnonzero(np.abs(stretch) > 0.5)[0]
    assert (half.stable, half.time_fs) == (False, 2.0 * first)
    assert half.worst == pytest.approx(7.0, abs=1e-6)
    relaxed = chains(np.zeros(1)).frames()[0]
    broken = bond_stability(run, relaxed, tolerance=5.0)
    assert broken.time_fs == 2.0 * np.flatnonzero(stretch > 5.0)[0] > half.time_fs
    quiet = bond_stability(chains(stretch[:50], wrap))
    assert (quiet.stable, quiet.time_fs) == (True, 2.0 * 49)


def test_the_mean_of_a_reference_is_what_counts():
    reference = chains(np.full(20, 0.2))
    assert bond_stability(chains(np.full(5, 0.6)), reference).stable
    assert not bond_stability(chains(np.full(5, 0.8)), reference).stable
    assert bond_stability(chains(np.full(5, 0.8)), reference).worst == pytest.approx(0.6)


def test_bonds_that_are_not_numbers_are_broken():
    run = chains(np.zeros(10))
    run.positions[6:] = np.nan
    assert bond_stability(run).time_fs == 12.0


def test_bonds_of_a_molecule_in_the_open():
    stretch = np.linspace(0, 2.0, 21)
    run = chains(stretch)
    free = Trajectory(run.numbers, run.positions, run.cell * 0, np.zeros(3, bool), 2.0)
    np.testing.assert_allclose(bond_lengths(free, bonds(free.frames()[0]))[:, -1], 1.1 + stretch)
    assert bond_stability(free).time_fs == 2.0 * 6


def test_bonds_to_images_stay_with_them():
    chain = Configuration(np.array([7]), np.zeros((1, 3)), np.diag([1.1, 9, 9]), np.ones(3, bool))
    found = bonds(chain)
    run = Trajectory(
        chain.numbers, np.zeros((3, 1, 3)), np.stack([np.diag([1.1 + s, 9, 9]) for s in (0, 0.1, 0.2)]),
        chain.pbc, 1.0,
    )  # fmt: skip
    np.testing.assert_allclose(bond_lengths(run, found)[:, 0], [1.1, 1.2, 1.3])


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("skewed", [False, True])
def test_bonds_hold_in_a_cell_that_breathes(wrap, skewed):
    """Rigid N2 that diffuses over many cells while these shrink and swing: no bond changes."""
    rng = np.random.default_rng(0)
    frames, molecules = 400, 20
    shape = np.array([[1.0, 0, 0], [0.4, 0.9, 0], [-0.3, 0.2, 1.1]]) if skewed else np.eye(3)
    length = np.linspace(30, 22, frames) + 1.5 * np.sin(0.3 * np.arange(frames))
    cell = length[:, None, None] * shape
    scaled = rng.random((molecules, 3)) + np.cumsum(0.06 * rng.normal(size=(frames, molecules, 3)), axis=0)
    bond = rng.normal(size=(molecules, 3))
    bond *= 1.1 / np.linalg.norm(bond, axis=1, keepdims=True)
    middle = scaled @ cell
    paths = np.concatenate([middle - 0.5 * bond, middle + 0.5 * bond], axis=1)
    if wrap:
        paths = paths - np.floor(paths @ np.linalg.inv(cell)) @ cell
    numbers = np.full(2 * molecules, 7)
    run = Trajectory(numbers, paths, cell, np.ones(3, bool), interval_fs=50.0, continuous=not wrap)
    assert np.abs(scaled[-1] - scaled[0]).max() > 2  # cells
    judged = bond_stability(run, tolerance=1e-6)
    assert judged.stable
    assert judged.time_fs == 50.0 * (frames - 1)


def test_a_melt_leaves_the_structure_of_the_crystal():
    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid(*[np.arange(4) * 3.0] * 3), -1).reshape(-1, 3)

    def run(melts: bool) -> Trajectory:
        paths = lattice + 0.15 * rng.normal(size=(60, 64, 3))
        if melts:
            paths[30:] = rng.random((30, 64, 3)) * 12.0
        return Trajectory(
            np.full(64, 18), paths, np.broadcast_to(BOX, (60, 3, 3)), np.ones(3, bool), interval_fs=100.0
        )

    reference = stability_curves(run(False))
    stays, melts = (rdf_stability(run(m), reference, threshold=1.0) for m in (False, True))
    assert stays.stable
    assert stays.worst < 0.5
    # windows of 10 frames average; a few molten frames are enough, the melt begins at 3 ps
    assert 2000 < melts.time_fs < 3000
    with pytest.raises(InputError, match="shorter than a window"):
        rdf_stability(run(False)[:5], reference)


def test_pairs_of_elements_show_what_all_atoms_hide():
    """Two kinds of atoms change places: g of all atoms stays, that of each pair does not."""
    lattice = np.stack(np.meshgrid(*[np.arange(4) * 3.0] * 3), -1).reshape(-1, 3)
    even = lattice.sum(axis=1) / 3.0 % 2 == 0
    paths = lattice + 0.15 * np.random.default_rng(0).normal(size=(40, 64, 3))
    mixed = np.random.default_rng(1).permutation(64)
    numbers = np.where(even, 11, 17)
    cell = np.broadcast_to(BOX, (40, 3, 3))
    run, other = (
        Trajectory(numbers, p, cell, np.ones(3, bool), interval_fs=100.0) for p in (paths, paths[:, mixed])
    )
    assert rdf_stability(other, stability_curves(run), threshold=1.0).stable
    assert not rdf_stability(other, stability_curves(run, partial=True), threshold=1.0).stable
    assert rdf_stability(run, stability_curves(run, partial=True), threshold=1.0).stable


def test_bad_input():
    run = chains(np.zeros(4))
    other = Atoms("O4", run.positions[0], cell=BOX, pbc=True)
    frame = Configuration(other.numbers, other.positions, BOX, other.pbc)
    with pytest.raises(InputError, match="other atoms"):
        bond_stability(run, frame)
    apart = Trajectory(run.numbers[:2], run.positions[:, [0, 2]], run.cell, run.pbc, 2.0)
    with pytest.raises(InputError, match="no bonds"):
        bond_stability(apart)
    free = Trajectory(run.numbers, run.positions, run.cell * 0, np.zeros(3, bool), 2.0)
    with pytest.raises(InputError, match="periodic"):
        stability_curves(free)
