"""Bonds are stretched by the factors that are written down, parts move rigidly, rings stay whole."""

import numpy as np
import pytest
from ase.build import molecule

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.sampling.bond_stretching import BondStretching, separable_bonds, stretch_bonds


def frame(name: str, box: float | None = None, **more) -> Configuration:
    atoms = molecule(name)
    cell = np.zeros((3, 3)) if box is None else box * np.eye(3)
    pbc = np.full(3, box is not None)
    return Configuration(atoms.numbers, atoms.positions, cell, pbc, source=name, **more)


def distances(positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[:, None] - positions[None], axis=2)


def test_a_bond_is_stretched_and_its_parts_are_rigid():
    start = frame("CH3CH2OH", energy=-1.0, group="a")
    parts = {(b.fixed, b.moved): b.part for b in separable_bonds(start)}
    assert len(parts) == 8
    assert all(2 * part.sum() <= len(start) for part in parts.values())
    for new in stretch_bonds([start], 40, BondStretching(), seed=0):
        i, j, factor = new.info["stretched"]
        before, after = distances(start.positions), distances(new.positions)
        assert after[int(i), int(j)] == pytest.approx(factor * before[int(i), int(j)])
        part = parts[int(i), int(j)]
        for side in (part, ~part):
            np.testing.assert_allclose(after[np.ix_(side, side)], before[np.ix_(side, side)], atol=1e-12)
        assert np.isnan(new.energy)
        assert new.group == "a"


def test_factors_are_uniform():
    new = stretch_bonds([frame("H2")], 2000, BondStretching(), seed=1)
    factors = np.array([f.info["stretched"][2] for f in new])
    lengths = np.array([distances(f.positions)[0, 1] for f in new]) / distances(frame("H2").positions)[0, 1]
    np.testing.assert_allclose(lengths, factors)
    assert factors.min() == pytest.approx(0.85, abs=0.01)
    assert factors.max() == pytest.approx(2.0, abs=0.01)
    counts = np.histogram(factors, 10, (0.85, 2.0))[0]
    assert counts.min() > 140  # of 200, six standard deviations


def test_rings_and_networks_are_left_alone():
    benzene = frame("C6H6")
    assert {benzene.numbers[b.moved] for b in separable_bonds(benzene)} == {1}
    assert len(separable_bonds(benzene)) == 6
    chain = Configuration(np.array([6, 6]), np.array([[0, 0, 0], [1.3, 0, 0]]), np.diag([2.6, 9, 9]),
                          np.ones(3, bool), source="chain.xyz:0")  # fmt: skip
    assert separable_bonds(chain) == []
    with pytest.raises(InputError, match=r"chain\.xyz:0 has 0 bonds that part"):
        stretch_bonds([chain], 1, BondStretching(), seed=0)


def test_molecules_across_the_boundary_of_the_cell():
    start = frame("CH3CH2OH", box=8.0)
    wrapped = Configuration(start.numbers, start.positions % 8.0, start.cell, start.pbc)
    assert np.abs(wrapped.positions - start.positions).max() > 7
    inside, across = (stretch_bonds([f], 20, BondStretching(), seed=3) for f in (start, wrapped))
    for a, b in zip(inside, across, strict=True):
        assert a.info["stretched"] == pytest.approx(b.info["stretched"])
        shift = (b.positions - a.positions) / 8.0
        np.testing.assert_allclose(shift, np.round(shift), atol=1e-9)


def test_several_bonds_at_once():
    start = frame("CH4")
    for new in stretch_bonds([start], 20, BondStretching(count=3, low=1.2), seed=0):
        chosen = np.reshape(new.info["stretched"], (3, 3))
        before, after = distances(start.positions), distances(new.positions)
        assert len(set(chosen[:, 1])) == 3
        for i, j, factor in chosen:
            assert after[int(i), int(j)] == pytest.approx(factor * before[int(i), int(j)])


def test_bonds_within_a_part_that_moves_are_kept():
    """Two bonds in a row: the outer part moves with both."""
    start = frame("CH3CH2OH")
    for new in stretch_bonds([start], 60, BondStretching(count=4), seed=5):
        before, after = distances(start.positions), distances(new.positions)
        for i, j, factor in np.reshape(new.info["stretched"], (4, 3)):
            assert after[int(i), int(j)] == pytest.approx(factor * before[int(i), int(j)])


def test_crowded_frames_keep_their_distance():
    """Molecules in a row, 0.86 Å from end to end: none can be drawn out to nearly twice its length."""
    start = frame("H2")
    row = np.concatenate([start.positions, start.positions + np.array([0, 0, 1.6])])
    crowd = Configuration(np.ones(4, int), row, np.diag([9, 9, 3.2]), np.ones(3, bool), source="row.xyz:0")
    made = stretch_bonds([crowd], 200, BondStretching(), seed=0)
    factors = np.array([f.info["stretched"][2] for f in made])
    longest = 1 + (1.6 - 2 * 0.3687 - 0.7 * 2 * 0.31) / (2 * 0.3687)  # then the next atom is 0.7 radii away
    assert factors.max() <= longest + 1e-3
    assert factors.max() == pytest.approx(longest, abs=0.03)
    with pytest.raises(InputError, match=r"row\.xyz:0: no bond could be stretched"):
        stretch_bonds([crowd], 1, BondStretching(low=1.9), seed=0)


def test_the_seed_and_the_place_decide():
    frames = [frame("CH4"), frame("CH3CH2OH")]
    both = stretch_bonds(frames, 3, BondStretching(), seed=7)
    again = stretch_bonds(frames, 3, BondStretching(), seed=7)
    first = stretch_bonds(frames[:1], 3, BondStretching(), seed=7)
    other = stretch_bonds(frames, 3, BondStretching(), seed=8)
    assert [f.info for f in both] == [f.info for f in again]
    assert [f.info for f in both[:3]] == [f.info for f in first]
    assert [f.info for f in both] != [f.info for f in other]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 0.0}, "0 < low <= high"),
        ({"low": 2.0, "high": 1.0}, "0 < low <= high"),
        ({"count": 0}, "count=0"),
        ({"min_separation": 1.5}, "below bond_tolerance"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        BondStretching(**settings)


def test_labels_of_stretched_frames(tmp_path):
    """A broken bond costs energy, and pulls its ends together."""
    pytest.importorskip("tblite", reason="tblite is not installed")
    from msmlff.labeling import Labeler, XTBEngine, with_labels

    start = frame("CH4")
    stretched = stretch_bonds([start], 2, BondStretching(low=1.4, high=1.6), seed=0)
    frames = [start, *stretched]
    results = Labeler(XTBEngine(method="GFN2-xTB"), tmp_path, processes=1).label(frames)
    labelled = [with_labels(f, r) for f, r in zip(frames, results, strict=True)]
    for new in labelled[1:]:
        assert new.energy > labelled[0].energy + 0.5
        i, j = int(new.info["stretched"][0]), int(new.info["stretched"][1])
        away = new.positions[j] - new.positions[i]
        assert new.forces[j] @ away < -1.0 * np.linalg.norm(away)
