"""Errors between trajectories: worked cases, and the figures that matbench-discovery's own functions give."""

from dataclasses import replace

import numpy as np
import pytest
from ase.units import GPa

from msmlff.analysis.observable_errors import (
    adf_error,
    benchmark_rdf,
    benchmark_spectrum,
    matched,
    possible_errors,
    pressure_errors,
    rdf_error,
    vdos_error,
)
from msmlff.analysis.trajectory import Trajectory
from msmlff.errors import InputError

CELL = np.array([[7.0, 0.0, 0.0], [1.5, 6.5, 0.0], [-1.0, 1.0, 7.2]])


def vibrating(seed: int, stiffness: float = 1.0, frames: int = 200, interval_fs: float = 2.0) -> Trajectory:
    """Silicon and carbon on a skewed lattice, a coordinate a sum of three oscillators; invented stresses."""
    rng = np.random.default_rng(seed)
    scaled = np.stack(np.meshgrid(*[np.arange(3) / 3] * 3), -1).reshape(-1, 3)
    time = 1e-3 * interval_fs * np.arange(frames)[:, None, None, None]
    frequency = np.sqrt(stiffness) * np.array([6.0, 14.0, 25.0])
    phase = rng.uniform(0, 2 * np.pi, size=(27, 3, 3))
    waves = np.sin(2 * np.pi * frequency * time + phase) * np.array([0.12, 0.06, 0.03])
    paths = scaled @ CELL + waves.sum(axis=3) / np.sqrt(stiffness)
    stress = -(10.0 + 3.0 / stiffness * rng.normal(size=frames))[:, None, None] * GPa * np.eye(3)
    return Trajectory(
        numbers=np.array([14, 6, 6] * 9),
        positions=paths - np.floor(paths @ np.linalg.inv(CELL)) @ CELL,
        cell=np.broadcast_to(CELL, (frames, 3, 3)),
        pbc=np.ones(3, bool),
        interval_fs=interval_fs,
        stress=stress,
    )


# what metrics/md.py of matbench-discovery (commit 2c7f9fc, July 2026) gives for these trajectories
PUBLISHED = {
    "rdf_error": 9.505036229,
    "adf_error": 8.413640170,
    "vdos_error": 21.759824967,
    "pressure_mae": 0.168756444,
    "pressure_wasserstein": 0.370326891,
    "pressure_error": 30.502134734,
}


def test_figures_of_matbench_discovery():
    values, reasons = possible_errors(vibrating(0), vibrating(1, stiffness=0.8, frames=150, interval_fs=3.0))
    assert reasons == {}
    assert values == pytest.approx(PUBLISHED, rel=1e-6)


def breathing(t: Trajectory, by: float, pbc: tuple[bool, bool, bool] = (True, True, True)) -> Trajectory:
    """The trajectory in a cell that swings, wrapped; directions that are not periodic stay open."""
    scale = (1 + by * np.sin(0.1 * np.arange(len(t))))[:, None, None]
    cell, periodic = t.cell * scale, np.array(pbc)
    places = np.linalg.solve(t.cell.transpose(0, 2, 1), t.positions.transpose(0, 2, 1)).transpose(0, 2, 1)
    return replace(t, positions=(places - np.floor(places) * periodic) @ cell, cell=cell, pbc=periodic)


# by the same functions: cells that swing by 10 and 7 %; a slab with steps through its open side
CELLS = {
    "breathing": {
        "rdf_error": 8.853246758,
        "adf_error": 6.678243670,
        "vdos_error": 8.965976406,
        "pressure_mae": 0.027457942,
        "pressure_wasserstein": 0.372231451,
        "pressure_error": 24.0,
    },
    "slab": {
        "rdf_error": 8.946742961,
        "adf_error": 16.253248757,
        "vdos_error": 3.771144779,
        "pressure_mae": 0.027457942,
        "pressure_wasserstein": 0.372231451,
        "pressure_error": 24.0,
    },
}


@pytest.mark.parametrize("name", CELLS)
def test_figures_of_matbench_discovery_in_other_cells(name):
    pbc = (True, True, name != "slab")
    reference = breathing(vibrating(0), 0.1 if name == "breathing" else 0.0, pbc)
    other = breathing(vibrating(1, stiffness=0.8), 0.07 if name == "breathing" else 0.0, pbc)
    values, reasons = possible_errors(reference, other)
    assert reasons == {}
    assert values == pytest.approx(CELLS[name], rel=1e-6)


def test_g_of_a_varying_cell_is_all_pairs_over_all_ideal_pairs():
    """One pair at 1 Å in a small cell, none in a cell of eight times its volume, written out."""
    positions = np.array([[[0.0, 0, 0], [1.0, 0, 0]], [[0.0, 0, 0], [4.0, 4.0, 4.0]]])
    cell = np.stack([6.0 * np.eye(3), 12.0 * np.eye(3)])
    t = Trajectory(np.array([18, 18]), positions, cell, np.ones(3, bool), 1.0)
    r, g = benchmark_rdf(t.frames(), 3.0)
    where = np.argmax(g)
    shell = 4 / 3 * np.pi * ((r[where] + 0.003) ** 3 - (r[where] - 0.003) ** 3)
    assert r[where] == pytest.approx(1.0, abs=0.0031)
    assert g[where] == pytest.approx(1 / (2 * (1 / 6**3 + 1 / 12**3) * shell))
    assert np.count_nonzero(g) == 1


def test_what_one_measure_needs_does_not_cost_the_others():
    """Argon has no bonds; molecules in the open have no g; frames without stress have no pressure."""
    t = vibrating(0, frames=40)
    argon = replace(t, numbers=np.full(27, 2))
    values, reasons = possible_errors(argon, argon)
    assert set(values) == set(PUBLISHED) - {"adf_error"}
    assert set(reasons) == {"adf_error"}
    assert "two bonds" in reasons["adf_error"]
    free = replace(t, pbc=np.zeros(3, bool))
    values, reasons = possible_errors(free, free)
    assert set(values) == set(PUBLISHED) - {"rdf_error"}
    assert "not periodic" in reasons["rdf_error"]
    values, reasons = possible_errors(t, replace(t, stress=None))
    assert set(reasons) == {"pressure_error"}
    assert set(values) == {"rdf_error", "adf_error", "vdos_error"}
    flat = replace(t, cell=t.cell * np.array([1.0, 1.0, 0.0])[:, None], pbc=np.array([True, True, False]))
    assert "without a volume" in possible_errors(flat, flat)[1]["rdf_error"]


def test_a_trajectory_is_no_different_from_itself():
    found, _ = possible_errors(vibrating(0), vibrating(0))
    assert set(found) == set(PUBLISHED)
    assert all(value == pytest.approx(0.0, abs=1e-9) for value in found.values())


def test_rdf_error_counts_the_area():
    r = np.linspace(0, 4, 401)
    reference = np.where(r < 2, 0.0, 1.0)  # differs from 1 by an area of 2
    shifted = np.where(r < 1.5, 0.0, 1.0)
    assert rdf_error(r, reference, shifted) == pytest.approx(25.0, abs=0.3)
    assert rdf_error(r, reference, np.ones_like(r)) == pytest.approx(100.0)
    assert rdf_error(r, reference, 5 * np.ones_like(r)) == 100.0
    assert rdf_error(r, np.ones_like(r), reference) == 100.0  # nothing to be compared with


def test_adf_error_grows_with_the_distance_of_the_peaks():
    angle = np.arange(0.5, 180)
    peak = {centre: np.exp(-0.5 * ((angle - centre) / 3) ** 2) for centre in (90, 100, 109.5, 120)}
    errors = [adf_error(angle, peak[109.5], peak[c]) for c in (109.5, 100, 90)]
    assert errors[0] == pytest.approx(0, abs=1e-9)
    assert errors[2] == pytest.approx(errors[1] * 19.5 / 9.5, rel=1e-3)
    assert adf_error(angle, peak[90], np.sin(np.radians(angle))) == pytest.approx(100.0)


def test_vdos_error_is_the_shift_over_the_width():
    x = np.linspace(0, 40, 4001)
    spectrum = [(x, np.exp(-0.5 * ((x - centre) / 2) ** 2)) for centre in (15, 16, 30)]
    assert vdos_error(spectrum[0], spectrum[0]) == pytest.approx(0.0, abs=1e-9)
    # cut at 99.9 % of the reference, a shift of 1 THz of a width of 2 THz is a little less than 50 %
    assert vdos_error(spectrum[0], spectrum[1]) == pytest.approx(50.0, abs=2.5)
    assert vdos_error(spectrum[0], spectrum[2]) == 100.0
    with pytest.raises(InputError, match="reference spectrum"):
        vdos_error((x, 0 * x), spectrum[0])


def test_pressure_errors_of_shifted_and_equal_sets():
    rng = np.random.default_rng(0)
    reference = 20 + rng.normal(size=4000)
    shifted = pressure_errors(reference, reference + 0.5)
    assert shifted["pressure_mae"] == pytest.approx(0.5)
    assert shifted["pressure_wasserstein"] == pytest.approx(0.5)
    assert pressure_errors(reference, reference + 100)["pressure_error"] == pytest.approx(100.0)
    wide = pressure_errors(reference, 20 + 3 * (reference - 20))
    assert wide["pressure_mae"] < 0.1 < wide["pressure_wasserstein"]
    assert pressure_errors(np.ones(5), np.ones(7))["pressure_error"] == 0.0
    with pytest.raises(InputError, match="stress in every frame"):
        pressure_errors(reference, np.array([1.0, np.nan]))


def test_common_time():
    reference, predicted = matched(
        vibrating(0, frames=100, interval_fs=2.0), vibrating(1, frames=200, interval_fs=3.0)
    )
    assert (len(reference) - 1) * 2.0 == (len(predicted) - 1) * 3.0 == 198.0
    with pytest.raises(InputError, match="fewer than 4 frames"):
        matched(vibrating(0, frames=3), vibrating(1))


def test_spectrum_has_its_peaks_where_the_oscillators_are():
    x, y = benchmark_spectrum(vibrating(0, frames=1000))
    for frequency in (6.0, 14.0, 25.0):
        near = np.abs(x - frequency) < 2
        assert x[near][np.argmax(y[near])] == pytest.approx(frequency, abs=x[1])
    assert y.sum() == pytest.approx(3 * 27)


def test_bad_input():
    t = vibrating(0, frames=20)
    with pytest.raises(InputError, match="different atoms"):
        possible_errors(t, replace(t, numbers=t.numbers[::-1].copy() * 0 + 6))
    with pytest.raises(InputError, match="interval_fs"):
        possible_errors(t, replace(t, interval_fs=None))
    with pytest.raises(InputError, match="same points"):
        rdf_error(np.arange(3.0), np.ones(3), np.ones(4))
