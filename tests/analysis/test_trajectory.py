"""Trajectories from frames."""

from dataclasses import replace

import numpy as np
import pytest
from ase.units import fs, kB

from msmlff.analysis.trajectory import Trajectory, from_frames, temperatures, unwrapped
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError


def frames(count: int = 4, step: float = 2.0) -> list[Configuration]:
    rng = np.random.default_rng(0)
    return [
        Configuration(
            np.array([11, 17]),
            rng.random((2, 3)),
            np.eye(3) * 5,
            np.ones(3, bool),
            energy=float(i),
            info={"time_fs": step * i},
            source=f"md.xyz:{i}",
        )
        for i in range(count)
    ]


def test_times_come_from_the_frames():
    t = from_frames(frames())
    assert t.interval_fs == 2.0
    assert t.time_fs.tolist() == [0, 2, 4, 6]
    assert from_frames(frames(), interval_fs=3.0).interval_fs == 3.0
    assert from_frames([replace(f, info={}) for f in frames()]).interval_fs is None
    thinned = t[::2]
    assert (len(thinned), thinned.interval_fs) == (2, 4.0)


def test_frames_come_back():
    t = from_frames(frames())
    back = t.frames()
    np.testing.assert_array_equal(back[2].positions, frames()[2].positions)
    assert [f.energy for f in back] == [0, 1, 2, 3]
    assert back[0].stress is None


def test_uneven_times_are_refused():
    uneven = frames()
    uneven[2] = replace(uneven[2], info={"time_fs": 5.0})
    with pytest.raises(InputError, match="1 to 3 fs apart"):
        from_frames(uneven)


def test_other_atoms_are_refused():
    mixed = frames()
    mixed[3] = replace(mixed[3], numbers=np.array([17, 11]))
    with pytest.raises(InputError, match=r"md\.xyz:3 holds other atoms"):
        from_frames(mixed)
    with pytest.raises(InputError, match="no frames"):
        from_frames([])


def test_temperature_of_a_maxwell_distribution():
    rng = np.random.default_rng(0)
    atoms, kelvin = 2000, 500.0
    frame = Configuration(np.full(atoms, 18), np.zeros((atoms, 3)))
    velocities = rng.normal(size=(atoms, 3)) * np.sqrt(kB * kelvin / 39.948) * fs
    t = from_frames([frame], velocities=[velocities])
    assert temperatures(t)[0] == pytest.approx(kelvin, rel=0.05)


@pytest.mark.parametrize("slab", [False, True])
def test_paths_in_a_cell_that_breathes_are_the_same_wrapped_and_not(slab):
    """Atoms many cells away do not take part in the lattice's growth there: their own steps remain."""
    rng = np.random.default_rng(0)
    count = 300
    length = 10.0 * (1 + 0.05 * np.sin(0.2 * np.arange(count)))
    cell = length[:, None, None] * np.array([[1.0, 0, 0], [0.3, 1, 0], [0, -0.2, 1]])
    scaled = rng.random((8, 3)) + np.cumsum(0.05 * rng.normal(size=(count, 8, 3)) + 0.02, axis=0)
    periodic = np.array([True, True, not slab])
    known = Trajectory(np.full(8, 18), scaled @ cell, cell, periodic, 10.0, continuous=True)
    wrapped = replace(known, positions=(scaled - np.floor(scaled) * periodic) @ cell, continuous=False)
    ours, theirs = (unwrapped(t) - unwrapped(t)[0] for t in (known, wrapped))
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    if not slab:
        own = np.cumsum(np.diff(scaled, axis=0) @ cell[1:], axis=0)  # steps times the cell they are made in
        followed = known.positions[1:] - known.positions[0]
        assert np.std(ours[1:] - own) < 0.5 * np.std(followed - own)
    still = replace(known, cell=np.broadcast_to(cell[0], cell.shape))
    assert unwrapped(still) is still.positions
