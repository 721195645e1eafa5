"""Random ACE features: physics of the design matrix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from systems import crystal, ethanol, hydrogen, moved

from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.errors import InputError
from msmlff.models.random_ace import RandomACE

SYSTEMS = {"molecule": ethanol(), "small cell": crystal(), "periodic": hydrogen()}
every = pytest.mark.parametrize("frame", SYSTEMS.values(), ids=SYSTEMS)


def ace_of(frame: Configuration, **settings: int) -> RandomACE:
    return RandomACE(
        tuple(sorted(set(frame.numbers.tolist()))), **({"channels": 4, "cutoff": 3.1} | settings)
    )


def design(ace: RandomACE, frame: Configuration) -> np.ndarray:
    neighbors = neighbor_list(frame.positions, frame.cell, frame.pbc, ace.cutoff)
    return ace.design(frame, neighbors).astype(np.float64)


def assert_close(a: np.ndarray, b: np.ndarray, share: float = 1e-4) -> None:
    """Equal within a share of each column's size: columns differ by orders of magnitude."""
    size = np.maximum(np.abs(a).max(axis=0), np.abs(b).max(axis=0))
    assert (np.abs(a - b) <= share * size + 1e-6).all()


@every
def test_forces_are_minus_the_gradient_of_the_energy(frame: Configuration) -> None:
    ace, h = ace_of(frame), 1e-3
    rows = design(ace, frame)
    for atom, axis in ((0, 0), (3, 1), (5, 2)):
        step = np.zeros_like(frame.positions)
        step[atom, axis] = h
        ends = [design(ace, moved(frame, frame.positions + sign * step))[0] for sign in (1, -1)]
        slope = (ends[1] - ends[0]) / (2 * h)
        size = np.abs(rows[1:]).max(axis=0)
        # float32 energies limit what a difference of them can say
        noise = 3e-7 * np.abs(rows[0]) / h
        assert (np.abs(rows[1 + 3 * atom + axis] - slope) <= 2e-3 * size + noise + 1e-6).all()


@every
def test_forces_sum_to_zero(frame: Configuration) -> None:
    forces = design(ace_of(frame), frame)[1:].reshape(len(frame), 3, -1)
    assert np.abs(forces).max() > 0
    assert (np.abs(forces.sum(axis=0)) <= 1e-4 * np.abs(forces).max(axis=(0, 1)) + 1e-6).all()


@every
@pytest.mark.parametrize("improper", [False, True])
def test_rotation_and_reflection(frame: Configuration, improper: bool) -> None:
    matrix = Rotation.random(rng=np.random.default_rng(1)).as_matrix() * (-1 if improper else 1)
    turned = replace(frame, positions=frame.positions @ matrix.T, cell=frame.cell @ matrix.T)
    ace = ace_of(frame)
    before, after = design(ace, frame), design(ace, turned)
    assert_close(after[:1], before[:1])
    forces = before[1:].reshape(len(frame), 3, -1)
    assert_close(after[1:], np.einsum("ab,nbf->naf", matrix, forces).reshape(-1, ace.size), 1e-3)


def test_atoms_wrapped_into_another_image() -> None:
    frame = hydrogen()
    positions = frame.positions.copy()
    positions[3] += 2 * frame.cell[0] - frame.cell[2]
    assert_close(design(ace_of(frame), moved(frame, positions)), design(ace_of(frame), frame))


def test_permutation() -> None:
    frame = ethanol()
    order = np.random.default_rng(0).permutation(len(frame))
    mixed = Configuration(frame.numbers[order], frame.positions[order])
    before, after = design(ace_of(frame), frame), design(ace_of(frame), mixed)
    assert_close(after[0], before[0])
    blocks = before[1:].reshape(len(frame), 3, -1)
    assert_close(after[1:].reshape(len(frame), 3, -1), blocks[order])


def test_two_far_copies_have_twice_the_energy() -> None:
    frame = ethanol()
    both = Configuration(
        np.concatenate([frame.numbers] * 2), np.concatenate([frame.positions, frame.positions + 50.0])
    )
    ace = ace_of(frame)
    assert_close(design(ace, both)[:1], 2 * design(ace, frame)[:1])


def test_an_atom_alone_has_its_species_energy_alone() -> None:
    ace = RandomACE((1, 8), channels=3)
    rows = design(ace, Configuration(np.array([8]), np.zeros((1, 3))))
    expected = np.zeros((4, ace.size))
    expected[0, -1] = 1.0
    np.testing.assert_allclose(rows, expected, atol=1e-7)


def test_energy_is_smooth_where_an_atom_enters_the_cutoff() -> None:
    ace = RandomACE((1,), cutoff=3.0, channels=3)
    pairs = [np.array([[0.0, 0, 0], [r, 0, 0]]) for r in (2.99, 3.0, 3.01)]
    rows = [design(ace, Configuration(np.ones(2, dtype=np.int64), p)) for p in pairs]
    np.testing.assert_allclose(rows[1][:, :-1], 0, atol=1e-7)
    np.testing.assert_allclose(rows[2][:, :-1], 0, atol=1e-7)
    assert 0 < np.abs(rows[0][:, :-1]).max() < 1e-3


def test_invariants_are_as_many_as_there_are() -> None:
    """Scalars of one, two, three factors of equal channel: l (l = 0), (l l), even (l1 l2 l3)."""
    counts = {0: 3, 1: 5, 2: 9, 3: 13}
    for l_max, paths in counts.items():
        assert RandomACE((1,), l_max=l_max, channels=1).size == paths + 1


def test_the_seed_draws_the_channels() -> None:
    frame = hydrogen()
    first, again, other = (design(ace_of(frame, seed=s), frame) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize(
    ("key", "value"), [("channels", 0), ("l_max", -1), ("cutoff", 0.0), ("num_bessel", 0)]
)
def test_impossible_settings(key: str, value: float) -> None:
    with pytest.raises(InputError, match=key):
        RandomACE((1,), **{key: value})  # type: ignore[arg-type]
