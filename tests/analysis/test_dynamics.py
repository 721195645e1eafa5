"""Motion with known answers: Brownian paths, oscillators, free flight; and MDAnalysis and freud."""

from dataclasses import replace

import numpy as np
import pytest
from ase.data import atomic_masses

from msmlff.analysis.dynamics import diffusion, finite_size_correction, msd, vacf, vdos
from msmlff.analysis.trajectory import Trajectory, longest_step, unwrapped
from msmlff.errors import InputError

CELL = np.array([[8.0, 0.0, 0.0], [2.0, 7.0, 0.0], [-1.0, 1.5, 9.0]])
INTERVAL = 5.0  # fs
D = 2e-4  # Å²/fs, which is 2e-5 cm²/s


def trajectory(paths: np.ndarray, **more) -> Trajectory:
    frames, atoms = paths.shape[:2]
    more.setdefault("numbers", np.full(atoms, 18))
    return Trajectory(
        positions=paths,
        cell=np.broadcast_to(more.pop("cell", CELL), (frames, 3, 3)),
        pbc=np.ones(3, bool),
        interval_fs=more.pop("interval_fs", INTERVAL),
        **more,
    )


def brownian(seed: int = 0, frames: int = 2000, atoms: int = 100) -> Trajectory:
    steps = np.random.default_rng(seed).normal(size=(frames, atoms, 3)) * np.sqrt(2 * D * INTERVAL)
    return trajectory(np.cumsum(steps, axis=0))


def wrapped(t: Trajectory) -> Trajectory:
    scaled = t.positions @ np.linalg.inv(CELL)
    return trajectory((scaled - np.floor(scaled)) @ CELL)


def oscillators(frequencies: list[float], masses: list[int], frames: int = 4000) -> Trajectory:
    """Two atoms a frequency (THz), all of equal energy, moving against each other with random phases."""
    rng = np.random.default_rng(7)
    time = INTERVAL * 1e-3 * np.arange(frames)[:, None, None]
    omega = 2 * np.pi * np.array(frequencies)[:, None]
    amplitude = 1e-3 / np.sqrt(atomic_masses[masses])[:, None]
    phase = rng.uniform(0, 2 * np.pi, size=(len(frequencies), 3))
    velocities = amplitude * np.cos(omega * time + phase)
    paths = 1e3 * amplitude / omega * np.sin(omega * time + phase)
    return trajectory(
        np.concatenate([paths, -paths], axis=1),
        velocities=np.concatenate([velocities, -velocities], axis=1),
        numbers=np.array([*masses, *masses]),
    )


def test_brownian_motion_has_its_diffusion_coefficient():
    found = diffusion(brownian(atoms=400))
    assert found.value == pytest.approx(D * 1e4, abs=4 * found.error)
    assert found.value == pytest.approx(D * 1e4, rel=0.05)
    assert 0 < found.error < 0.05 * found.value
    assert found.exponent == pytest.approx(1.0, abs=0.05)


def test_errors_of_diffusion_are_honest():
    """The errors of 30 short runs are about the scatter of their values."""
    runs = [diffusion(brownian(seed, 400, 20)) for seed in range(30)]
    scatter = np.std([r.value for r in runs])
    assert np.median([r.error for r in runs]) == pytest.approx(scatter, rel=0.5)


def test_wrapped_paths_give_the_same_displacements():
    free = brownian(1, 300, 30)
    back = unwrapped(wrapped(free))
    np.testing.assert_allclose(back - back[0], free.positions - free.positions[0], atol=1e-9)
    np.testing.assert_allclose(unwrapped(free), free.positions, atol=1e-9)
    np.testing.assert_allclose(msd(wrapped(free)).y, msd(free).y, atol=1e-9)


def test_continuous_paths_are_not_folded():
    """Atoms that jump by more than half the cell: their mark keeps the paths, the cell folds the others."""
    free = brownian(1, 60, 30)
    jumps = 0.7 * free.cell[0, 0, 0] * np.arange(60.0)[:, None, None] * np.array([1.0, 0.0, 0.0])
    fast = replace(free, positions=free.positions + jumps * (np.arange(30) % 2)[:, None])
    np.testing.assert_array_equal(unwrapped(replace(fast, continuous=True)), fast.positions)
    assert np.abs(unwrapped(fast) - fast.positions).max() > 0.5 * free.cell[0, 0, 0]
    assert longest_step(replace(fast, continuous=True)) == 0.0
    assert 0.25 < longest_step(fast) <= 0.5
    assert longest_step(free) < 0.25
    marked = replace(wrapped(free), continuous=True)  # as a program leaves it that wraps and keeps the rest
    np.testing.assert_allclose(msd(marked).y, msd(free).y, atol=1e-9)


def test_msd_is_the_plain_double_sum():
    t = brownian(2, 60, 7)
    found = msd(t)
    paths = t.positions - t.positions.mean(axis=1, keepdims=True)  # equal masses
    for lag in (0, 1, 13, 30):
        moved = paths[lag:] - paths[: len(paths) - lag]
        assert found.y[lag] == pytest.approx((moved**2).sum(axis=2).mean(), rel=1e-9, abs=1e-10)
    assert found.x[13] == 13 * INTERVAL


def test_msd_takes_off_the_drift_of_the_whole():
    t = brownian(3, 100, 10)
    drifting = trajectory(t.positions + 0.05 * np.arange(100)[:, None, None])
    np.testing.assert_allclose(msd(drifting).y, msd(t).y, atol=1e-8)


def test_msd_is_that_of_freud():
    freud = pytest.importorskip("freud", reason="freud-analysis is not installed")
    t = brownian(4, 200, 20)
    centred = t.positions - t.positions.mean(axis=1, keepdims=True)
    oracle = freud.msd.MSD(mode="window").compute(centred)
    np.testing.assert_allclose(msd(t).y, oracle.msd[:101], rtol=1e-3, atol=1e-6)


def test_msd_is_that_of_mdanalysis():
    mda = pytest.importorskip("MDAnalysis", reason="MDAnalysis is not installed")
    from MDAnalysis.analysis.msd import EinsteinMSD

    t = brownian(5, 150, 12)
    centred = t.positions - t.positions.mean(axis=1, keepdims=True)
    universe = mda.Universe.empty(12, trajectory=True)
    universe.load_new(centred.astype(np.float32), order="fac")
    oracle = EinsteinMSD(universe, select="all", msd_type="xyz", fft=False).run()
    np.testing.assert_allclose(msd(t).y, oracle.results.timeseries[:76], rtol=1e-3, atol=1e-4)


def test_of_one_element():
    t = brownian(6, 200, 20)
    numbers = np.array([3] * 10 + [17] * 10)
    still = t.positions.copy()
    still[:, 10:] = still[0, 10:]
    mixed = trajectory(still, numbers=numbers)
    assert msd(mixed, element=3).y[50] > 10 * msd(mixed, element=17).y[50]
    with pytest.raises(InputError, match="holds no Fe"):
        msd(mixed, element=26)


def test_yeh_and_hummer():
    # SPC/E-like water: 298 K, 0.7 mPa s, 20 Å: 2.837297 * kT / (6 π η L)
    assert finite_size_correction(298.0, 0.7, 20.0) == pytest.approx(0.4424, rel=1e-3)


def test_vacf_of_an_oscillator_is_a_cosine():
    found = vacf(oscillators([10.0], [18]))
    expected = np.cos(2 * np.pi * 10.0 * found.x * 1e-3)
    np.testing.assert_allclose(found.y[:1000], expected[:1000], atol=0.01)
    assert found.y[0] == 1.0


def test_vdos_peaks_at_the_frequencies_with_equal_weights():
    """Equal energies make equal areas, whatever the masses."""
    t = oscillators([5.0, 12.0, 30.0], [79, 18, 1])
    found = vdos(t, resolution=0.25)
    assert np.trapezoid(found.y, found.x) == pytest.approx(1.0)
    step = found.x[1]
    for frequency in (5.0, 12.0, 30.0):
        near = np.abs(found.x - frequency) < 1.5
        assert abs(found.x[near][np.argmax(found.y[near])] - frequency) <= step
        assert np.trapezoid(found.y[near], found.x[near]) == pytest.approx(1 / 3, abs=0.02)
    share = vdos(t, resolution=0.25, element=79)
    assert np.trapezoid(share.y, share.x) == pytest.approx(1 / 3, abs=0.02)


def test_drift_of_the_whole_is_no_vibration():
    t = oscillators([5.0, 12.0], [79, 18])
    drifting = replace(t, velocities=t.velocities + 0.01)
    np.testing.assert_allclose(vdos(drifting).y, vdos(t).y, atol=1e-9)
    np.testing.assert_allclose(vacf(drifting).y, vacf(t).y, atol=1e-9)


def test_vdos_parts_of_elements_add_up():
    t = oscillators([5.0, 12.0, 30.0], [79, 18, 1])
    parts = [vdos(t, element=z).y for z in (79, 18, 1)]
    np.testing.assert_allclose(np.sum(parts, axis=0), vdos(t).y, rtol=1e-9, atol=1e-12)


def test_bad_input():
    one = trajectory(np.zeros((1, 4, 3)))
    with pytest.raises(InputError, match="1 frame"):
        msd(one)
    bare = brownian(0, 100, 4)
    with pytest.raises(InputError, match="holds no velocities"):
        vacf(bare)
    with pytest.raises(InputError, match="holds no velocities"):
        vdos(bare)
    with pytest.raises(InputError, match="interval_fs"):
        msd(trajectory(bare.positions, interval_fs=None))
    with pytest.raises(InputError, match="10 frames a block"):
        diffusion(bare[:40])
    with pytest.raises(InputError, match="fit_fs"):
        diffusion(bare, fit_fs=(10.0, 1e6))
    with pytest.raises(InputError, match="frames"):
        vdos(oscillators([10.0], [18], 100), resolution=0.001)
