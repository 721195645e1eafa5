"""How far observables of one trajectory are from those of another, in the measures of matbench-discovery.

The definitions are those of its molecular-dynamics task (matbench_discovery/metrics/md.py of July 2026), so
that the percentages can be set beside the published ones: 0 is a perfect match, 100 as far from the reference
as a structureless system.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.stats import wasserstein_distance

from msmlff.analysis.pairs import frame_name, image_radius, pair_distances
from msmlff.analysis.structure import adfs
from msmlff.analysis.thermodynamics import pressure
from msmlff.analysis.trajectory import Trajectory
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import minimum_image
from msmlff.errors import InputError

RDF_BINS, PRESSURE_BINS, BAND = 500, 80, 0.999


def rdf_error(r: np.ndarray, reference: np.ndarray, predicted: np.ndarray) -> float:
    """Percent: 100 min(1, ∫|g_ref - g| dr / ∫|g_ref - 1| dr), by trapezoids.

    Args:
        r: [points] Å; reference, predicted: [points].
    """
    _same_grid(r, reference, predicted, "rdf_error")
    scale = np.trapezoid(np.abs(np.asarray(reference) - 1.0), r)
    if scale == 0:
        return 100.0
    return float(100.0 * min(1.0, np.trapezoid(np.abs(np.asarray(reference) - predicted), r) / scale))


def adf_error(angle: np.ndarray, reference: np.ndarray, predicted: np.ndarray) -> float:
    """Percent: the Wasserstein-1 distance of two angular distributions over that of the reference from sin θ.

    Args:
        angle: [bins] degrees, equally spaced; reference, predicted: [bins], of any norm.
    """
    _same_grid(angle, reference, predicted, "adf_error")
    scale = wasserstein_distance(angle, angle, reference, np.sin(np.radians(angle)))
    if scale <= 0:
        return 100.0
    return float(100.0 * min(1.0, wasserstein_distance(angle, angle, reference, predicted) / scale))


def vdos_error(reference: tuple[np.ndarray, np.ndarray], predicted: tuple[np.ndarray, np.ndarray]) -> float:
    """Percent: 100 min(1, W1 / σ_ref) of two spectra, W1 their Wasserstein-1 distance.

    Both are interpolated on the union of their grids up to the smaller last frequency, weighed with
    trapezoids, and cut where 99.9 % of the reference's power are below; σ_ref is the reference's standard
    deviation in frequency.

    Args:
        reference, predicted: frequencies (THz, ascending) and intensities.
    """
    grid = np.union1d(reference[0], predicted[0])
    grid = grid[grid <= min(reference[0].max(), predicted[0].max())]
    if len(grid) < 2:
        raise InputError("vdos_error: the two spectra have fewer than 2 frequencies in common")
    width = np.empty_like(grid)
    width[0], width[-1] = 0.5 * (grid[1] - grid[0]), 0.5 * (grid[-1] - grid[-2])
    width[1:-1] = 0.5 * (grid[2:] - grid[:-2])
    expected = np.interp(grid, *reference) * width
    found = np.interp(grid, *predicted) * width
    for mass, which in ((expected, "reference"), (found, "predicted")):
        if not np.isfinite(mass).all() or mass.min() < 0 or mass.sum() <= 0:
            raise InputError(f"vdos_error: the {which} spectrum is negative, empty or not finite")
    cut = min(int(np.searchsorted(np.cumsum(expected), BAND * expected.sum())), len(grid) - 1)
    grid, expected, found = grid[: cut + 1], expected[: cut + 1], found[: cut + 1]
    if found.sum() <= 0:
        return 100.0
    distance = wasserstein_distance(grid, grid, expected, found)
    mean = np.average(grid, weights=expected)
    sigma = math.sqrt(np.average((grid - mean) ** 2, weights=expected))
    if sigma <= 0:
        return 0.0 if distance <= 0 else 100.0
    return float(100.0 * min(1.0, distance / sigma))


def pressure_errors(reference: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Differences of two sets of pressures (GPa), whose frames do not correspond.

    Returns:
        ``pressure_mae``: GPa, of the means; ``pressure_wasserstein``: GPa, of the distributions;
        ``pressure_error``: percent of the histograms (80 common bins) that do not overlap.
    """
    reference, predicted = np.asarray(reference, float), np.asarray(predicted, float)
    both = np.concatenate([reference, predicted])
    if not len(reference) or not len(predicted) or not np.isfinite(both).all():
        raise InputError("pressure_errors: both trajectories need a stress in every frame")
    edges = np.linspace(both.min(), both.max(), PRESSURE_BINS + 1)
    overlap = 0.0
    if edges[-1] > edges[0]:
        densities = [np.histogram(values, edges, density=True)[0] for values in (reference, predicted)]
        overlap = 50.0 * float(np.sum(np.abs(densities[0] - densities[1]) * np.diff(edges)))
    return {
        "pressure_mae": abs(float(reference.mean() - predicted.mean())),
        "pressure_wasserstein": float(wasserstein_distance(reference, predicted)),
        "pressure_error": overlap,
    }


def benchmark_spectrum(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """The spectrum that ``vdos_error`` is defined for: frequencies in THz, intensities.

    Velocities are central differences of paths whose steps go to the nearest image in the earlier frame's
    cell; each component is windowed (Hann) and its power
    spectrum normalised to 1 before all are summed, so that light atoms count as much as heavy ones.

    Raises:
        InputError: fewer than 4 frames.
    """
    interval = trajectory.need_interval("vdos")
    if len(trajectory) < 4:
        raise InputError(f"vdos: {trajectory.source or 'the trajectory'} holds fewer than 4 frames")
    steps = np.diff(trajectory.positions, axis=0)
    for i, step in enumerate(steps):
        steps[i] = minimum_image(step, trajectory.cell[i], trajectory.pbc)
    paths = np.concatenate([trajectory.positions[:1] * 0.0, np.cumsum(steps, axis=0)])
    velocities = np.gradient(paths, interval, axis=0)
    spectra = np.abs(np.fft.rfft(velocities * np.hanning(len(velocities))[:, None, None], axis=0)) ** 2
    power = spectra.sum(axis=0)
    spectra = np.divide(spectra, power, out=np.zeros_like(spectra), where=power > 0)
    return np.fft.rfftfreq(len(velocities), 1e-3 * interval), spectra.sum(axis=(1, 2))


def possible_errors(reference: Trajectory, predicted: Trajectory) -> tuple[dict[str, float], dict[str, str]]:
    """The measures of two trajectories of one system, over the longest time that both span.

    Each is computed by itself: what one of the trajectories does not allow leaves the others.

    Returns:
        values: ``rdf_error``, ``adf_error``, ``vdos_error`` (percent) and those of ``pressure_errors``;
        reasons: by "rdf_error", "adf_error", "vdos_error" and "pressure_error", why one is not there.

    Raises:
        InputError: other atoms, unknown times, or fewer than 4 common frames.
    """
    if not np.array_equal(np.sort(reference.numbers), np.sort(predicted.numbers)):
        raise InputError(
            f"{predicted.source or 'the trajectory'} and the reference {reference.source} hold different "
            "atoms; errors need the same system"
        )
    reference, predicted = matched(reference, predicted)
    expected, found = reference.frames(), predicted.frames()
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name, measure in {
        "rdf_error": lambda: {"rdf_error": _rdf_error(expected, found)},
        "adf_error": lambda: {"adf_error": _adf_error(expected, found)},
        "vdos_error": lambda: {
            "vdos_error": vdos_error(benchmark_spectrum(reference), benchmark_spectrum(predicted))
        },
        "pressure_error": lambda: pressure_errors(pressure(expected), pressure(found)),
    }.items():
        try:
            values |= measure()
        except InputError as error:
            reasons[name] = str(error)
    return values, reasons


def _rdf_error(expected: Sequence[Configuration], found: Sequence[Configuration]) -> float:
    # the reference's; where the other cell allows less, the benchmark gives nothing
    radius = min(image_radius(expected), image_radius(found))
    if not math.isfinite(radius):
        raise InputError("rdf_error: the frames are not periodic; g(r) needs a cell")
    r, g = benchmark_rdf(expected, radius)
    return rdf_error(r, g, benchmark_rdf(found, radius)[1])


def _adf_error(expected: Sequence[Configuration], found: Sequence[Configuration]) -> float:
    curves = []
    for frames, which in ((expected, "reference"), (found, "predicted")):
        angles, _ = adfs(frames, limit=image_radius(frames))
        if not angles:
            raise InputError(
                f"adf_error: no atom of the {which} frames has two bonds (pairs closer than 1.25 times the "
                "sum of their covalent radii)"
            )
        curves.append(angles[None])
    return adf_error(curves[0].x, curves[0].y, curves[1].y)


def benchmark_rdf(frames: Sequence[Configuration], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """The g(r) that ``rdf_error`` is defined for: the middle of each of 500 shells in Å, and g there.

    Pairs of all frames over those of ideal gases of the frames' densities, Σ N²/2 v(r)/V: in a cell that
    breathes, dense frames weigh more than in the mean of ``structure.rdf``. V is the determinant of the cell,
    the vacuum of a slab included.

    Raises:
        InputError: a cell without a volume.
    """
    edges = np.linspace(0.0, radius, RDF_BINS + 1)
    counts, inverse_volume = np.zeros(RDF_BINS), 0.0
    for frame in frames:
        if not frame.volume > 0.0:
            raise InputError(f"rdf_error: {frame_name(frame)} has a cell without a volume; g(r) needs one")
        counts += np.histogram(pair_distances(frame, radius)[2], edges)[0]
        inverse_volume += 1.0 / frame.volume
    shells = 4.0 / 3.0 * math.pi * np.diff(edges**3)
    ideal = 0.5 * len(frames[0]) ** 2 * inverse_volume * shells
    return 0.5 * (edges[:-1] + edges[1:]), counts / ideal


def matched(reference: Trajectory, predicted: Trajectory) -> tuple[Trajectory, Trajectory]:
    """Both cut to the longest time that is a whole number of both intervals and that both span.

    Raises:
        InputError: fewer than 4 frames are left of one.
    """
    steps = [Fraction(str(round(t.need_interval("errors"), 6))) for t in (reference, predicted)]
    common = Fraction(
        math.lcm(
            *(s.numerator * (math.lcm(*(t.denominator for t in steps)) // s.denominator) for s in steps)
        ),
        math.lcm(*(t.denominator for t in steps)),
    )
    strides = [int(common / step) for step in steps]
    spans = [(len(t) - 1) // stride for t, stride in zip((reference, predicted), strides, strict=True)]
    counts = [min(spans) * stride + 1 for stride in strides]
    if min(counts) < 4:
        raise InputError(
            "errors against a reference: fewer than 4 frames of common time; store longer trajectories or "
            "more frames"
        )
    return reference[: counts[0]], predicted[: counts[1]]


def _same_grid(x: np.ndarray, reference: np.ndarray, predicted: np.ndarray, what: str) -> None:
    if not len(x) == len(reference) == len(predicted) or len(x) < 2:
        raise InputError(f"{what}: the two curves must be given at the same points, two or more")
    for values in (reference, predicted):
        if not np.isfinite(values).all() or np.min(values) < 0:
            raise InputError(f"{what}: a curve is negative or not finite")
