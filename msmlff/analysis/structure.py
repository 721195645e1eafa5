"""Distances and angles: radial and angular distribution functions, coordination, molecular fraction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from ase.data import covalent_radii
from scipy.special import erf

from msmlff.analysis.blocking import block_error
from msmlff.analysis.curve import Curve
from msmlff.analysis.pairs import Pairs, find_pairs, frame_name, pair_distances, require_cell
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError

Pair = tuple[int, int]
Triple = tuple[int, int, int]

# Cheng, Mazzola, Pickard, Ceriotti, Nature 585, 217 (2020), Methods: a cubic switch of the coordination
# number (Å), the range of it that a molecule's atom has, and the width of the Gaussian that smooths the
# range.
SWITCH_FULL, SWITCH_ZERO = 0.8, 1.1
COORDINATION_RANGE = (0.8, 1.2)
COORDINATION_SMOOTHING = 0.08

SMOOTHINGS = (0.04, 0.08, 0.15)  # Å, Gaussians that the noise is taken off g with, one after the other
DIP, SURE = 0.05, 5.0  # what a peak of g must stand out by: a number, and times the noise

BOND_TOLERANCE = 1.25  # of the sum of two covalent radii; what is closer is a bond


def rdf(frames: Sequence[Configuration], r_max: float, bins: int, pair: Pair | None = None) -> Curve:
    """Radial distribution function of periodic frames, averaged over frames; see ``rdfs``."""
    return rdfs(frames, r_max, bins, (pair,))[pair]


def rdfs(
    frames: Sequence[Configuration], r_max: float, bins: int, pairs: Sequence[Pair | None]
) -> dict[Pair | None, Curve]:
    """Radial distribution functions of periodic frames, total and partial, from one search a frame.

    g_ab(r) = V n_ab(r) / (N_a N_b v(r)): n_ab pairs in a shell of exact volume v(r), over those of an ideal
    gas of the frame's density (Allen, Tildesley, Computer Simulation of Liquids, 2nd ed., eq. 2.113).
    Periodic images are counted wherever they are, so ``r_max`` may exceed half the cell. An ideal gas of N
    atoms gives 1 - 1/N where a = b.

    Args:
        frames: periodic in all directions, in time order (for the errors).
        r_max: Å.
        bins: number of shells of equal width.
        pairs: atomic numbers (centre, neighbour) of the partial functions; None for all atoms alike.

    Returns:
        For each of ``pairs``: x the middle of each shell in Å, y = g, its standard error by blocking; that of
        independent counts for a single frame.

    Raises:
        InputError: no frame, a frame that is not periodic, or one without atoms of a pair.
    """
    middle, g = frame_rdfs(frames, r_max, bins, pairs)
    if len(frames) > 1:
        return {pair: Curve(middle, values.mean(axis=0), block_error(values)) for pair, values in g.items()}
    curves = {}
    for pair, (values,) in g.items():
        one_pair = _directions(pair) / _ideal_counts(frames[0], pair, np.linspace(0.0, r_max, bins + 1))
        curves[pair] = Curve(middle, values, np.sqrt(values * one_pair))
    return curves


def frame_rdfs(
    frames: Sequence[Configuration], r_max: float, bins: int, pairs: Sequence[Pair | None]
) -> tuple[np.ndarray, dict[Pair | None, np.ndarray]]:
    """(middle of each shell [bins] Å, g of each frame [frames, bins] by pair); see ``rdfs``."""
    if not len(frames):
        raise InputError("rdf: no frames given")
    if not r_max > 0 or bins < 1:
        raise InputError(f"rdf: r_max={r_max} and bins={bins}; both must be positive")
    edges = np.linspace(0.0, r_max, bins + 1)
    g = {pair: np.zeros((len(frames), bins)) for pair in pairs}
    for i, frame in enumerate(frames):
        require_cell(frame, "rdf")
        numbers = frame.numbers
        first, second, distance = pair_distances(frame, r_max)
        for pair in pairs:
            ideal = _ideal_counts(frame, pair, edges)
            if pair is not None:
                a, b = numbers[first], numbers[second]
                found = distance[((a == pair[0]) & (b == pair[1])) | ((a == pair[1]) & (b == pair[0]))]
            counts = np.histogram(distance if pair is None else found, bins, (0.0, r_max))[0]
            g[pair][i] = _directions(pair) * counts / ideal
    return 0.5 * (edges[:-1] + edges[1:]), g


def _directions(pair: Pair | None) -> int:
    """How often a pair of atoms counts: from each to the other; of two kinds only one is the centre."""
    return 2 if pair is None or pair[0] == pair[1] else 1


def _ideal_counts(frame: Configuration, pair: Pair | None, edges: np.ndarray) -> np.ndarray:
    """[shells] directed pairs of an ideal gas of the frame's density."""
    centres, neighbours = _counts(frame, pair)
    return centres * neighbours / frame.volume * 4.0 / 3.0 * math.pi * np.diff(edges**3)


def _counts(frame: Configuration, pair: Pair | None) -> tuple[int, int]:
    """How many centres and neighbours there are; InputError where there are none."""
    if pair is None:
        return len(frame), len(frame)
    counts = int((frame.numbers == pair[0]).sum()), int((frame.numbers == pair[1]).sum())
    if not all(counts):
        raise InputError(f"rdf: {frame_name(frame)} has no atoms of the pair {pair}")
    return counts


def element_pairs(numbers: np.ndarray) -> list[Pair]:
    """The unordered pairs of elements among ``numbers`` [atoms]: (1, 1), (1, 8), (8, 8)."""
    elements = [int(z) for z in np.unique(numbers)]
    return [(a, b) for i, a in enumerate(elements) for b in elements[i:]]


def running_coordination(g: Curve, neighbour_density: float) -> np.ndarray:
    """[points] neighbours of a centre closer than the outer edge of each shell: 4 π ρ ∫ g r² dr.

    Args:
        g: of ``rdf``; its shells have equal width and begin at 0.
        neighbour_density: atoms of the neighbour's kind per Å³.
    """
    width = g.x[1] - g.x[0] if len(g.x) > 1 else 2 * g.x[0]
    edges = np.append(0.0, g.x + 0.5 * width)
    return np.cumsum(g.y * neighbour_density * 4.0 / 3.0 * math.pi * np.diff(edges**3))


def first_minimum(g: Curve) -> float | None:
    """Å, where g has its first minimum after its first peak: the edge of the first shell of neighbours.

    The first peak counts that stands out of the noise (the errors of g) of the narrowest of ``SMOOTHINGS``
    that any does; so the bond of a molecule, which wide smoothing would blur, ends where it ends, and the
    few frames of a liquid do not show peaks that are none. The minimum behind it is that of g smoothed by a
    fifth of its distance from the peak.

    Args:
        g: of ``rdf``.

    Returns:
        None where there is no peak above 1 with a minimum behind it.
    """
    if len(g.x) < 5:
        return None
    for width in SMOOTHINGS:
        last = width == SMOOTHINGS[-1]
        found = _first_dip(_smoothed(g, width), 0.0 if last else np.maximum(DIP, SURE * _noise(g, width)))
        if found is not None:
            peak, dip, end = found
            return _lowest(g, peak, end, min(SMOOTHINGS[-1], 0.2 * float(g.x[dip] - g.x[peak])))
    return None


def _smoothed(g: Curve, width: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    return np.asarray(gaussian_filter1d(g.y, width / (g.x[1] - g.x[0]), mode="nearest"))


def _noise(g: Curve, width: float) -> np.ndarray:
    """[points] standard error of g smoothed by a Gaussian, of independent shells; 0 where none is known."""
    from scipy.ndimage import gaussian_filter1d

    bins = width / (g.x[1] - g.x[0])
    square = gaussian_filter1d(np.nan_to_num(g.error) ** 2, bins / math.sqrt(2.0), mode="nearest")
    return np.asarray(np.sqrt(square * min(1.0, 0.5 / (bins * math.sqrt(math.pi)))))


def _first_dip(y: np.ndarray, least: np.ndarray | float) -> tuple[int, int, int] | None:
    """(peak, dip, end): the first peak above 1 that y falls below by more than ``least`` [points], the lowest
    point behind it, and the point where y has risen above that by more than ``least``."""
    least = np.broadcast_to(least, y.shape)
    peak = dip = -1
    for i in range(len(y)):
        if dip < 0:
            if y[i] > 1.0 and (peak < 0 or y[i] > y[peak]):
                peak = i
            elif peak >= 0 and y[i] < y[peak] - max(least[i], least[peak]):
                dip = i
        elif y[i] < y[dip]:
            dip = i
        elif y[i] > y[dip] + max(least[i], least[dip], 1e-9):
            return peak, dip, i
    return None


def _lowest(g: Curve, peak: int, end: int, width: float) -> float:
    """Å, the lowest point of smoothed g between two points; of a stretch as low, as the empty one between two
    shells of a crystal, the middle."""
    y = _smoothed(g, width)[peak : end + 1]
    low = np.flatnonzero(y <= y.min() + 1e-9)
    breaks = np.flatnonzero(np.diff(low) > 1)
    stop = int(breaks[0]) if len(breaks) else len(low) - 1
    return float(g.x[peak + (low[0] + low[stop]) // 2])


def coordination_numbers(
    frames: Sequence[Configuration], cutoff: float, pair: Pair | None = None
) -> list[np.ndarray]:
    """For each frame [centres] int: neighbours closer than ``cutoff`` (Å) of each centre.

    Args:
        pair: atomic numbers (centre, neighbour); None for all atoms alike.
    """
    numbers = []
    for frame in frames:
        found = find_pairs(frame, cutoff)
        if pair is not None:
            kept = (frame.numbers[found.receiver] == pair[0]) & (frame.numbers[found.sender] == pair[1])
            found = found.where(kept)
        counts = np.bincount(found.receiver, minlength=len(frame))
        numbers.append(counts if pair is None else counts[frame.numbers == pair[0]])
    return numbers


def bonds(frame: Configuration, tolerance: float = BOND_TOLERANCE, limit: float = math.inf) -> Pairs:
    """Pairs closer than ``tolerance`` times the sum of their covalent radii (Cordero et al., Dalton Trans.
    2008, 2832, as ASE has them), each in both directions.

    Args:
        limit: Å, no bond is longer.
    """
    longest = min(2.0 * tolerance * float(covalent_radii[frame.numbers].max()), limit)
    found = find_pairs(frame, longest)
    radii = covalent_radii[frame.numbers]
    return found.where(found.distance <= tolerance * (radii[found.receiver] + radii[found.sender]))


def adf(
    frames: Sequence[Configuration],
    bins: int = 180,
    cutoff: float | None = None,
    triple: Triple | None = None,
    limit: float = math.inf,
) -> Curve:
    """Distribution of the angles between bonds of an atom, its integral over degrees 1; see ``adfs``.

    Args:
        triple: atomic numbers (end, centre, end); None for all atoms alike.

    Raises:
        InputError: no frame has an atom with two bonds (of these elements).
    """
    found, _ = adfs(frames, bins, cutoff, limit)
    wanted = triple if triple is None else (min(triple[::2]), triple[1], max(triple[::2]))
    if wanted not in found:
        raise InputError("adf: no atom has two bonds; set a cutoff (Å) below which pairs count as bonds")
    return found[wanted]


def adfs(
    frames: Sequence[Configuration], bins: int = 180, cutoff: float | None = None, limit: float = math.inf
) -> tuple[dict[Triple | None, Curve], dict[Triple | None, float]]:
    """Distributions of the angles between bonds of an atom, of all and of each triple of elements.

    Args:
        frames: in time order (for the errors).
        bins: of 0 to 180 degrees.
        cutoff: Å, pairs that count as bonds; None: those of ``bonds``.
        limit: Å, no bond is longer (``pairs.image_radius`` for what matbench-discovery counts).

    Returns:
        By atomic numbers (end, centre, end), the smaller end first, of the triples there are, the most
        frequent first; under None of all alike; {} where no atom has two bonds:
        curves: x the middle of each bin in degrees, y per degree, its integral 1;
        angles per frame.
    """
    if not len(frames):
        raise InputError("adf: no frames given")
    counts: dict[Triple | None, np.ndarray] = {}
    for i, frame in enumerate(frames):
        found = bonds(frame, limit=limit) if cutoff is None else find_pairs(frame, min(cutoff, limit))
        for triple, angles in _angles(found, frame.numbers).items():
            own = counts.setdefault(triple, np.zeros((len(frames), bins)))
            own[i] = np.histogram(angles, bins, (0.0, 180.0))[0]
    order = sorted(counts, key=lambda triple: counts[triple].sum(), reverse=True)
    per_frame = {triple: float(counts[triple].sum() / len(frames)) for triple in order}
    width = 180.0 / bins
    x = width * (np.arange(bins) + 0.5)
    curves = {}
    for triple, mean in per_frame.items():
        shares = counts[triple] / (mean * width)
        curves[triple] = Curve(x, shares.mean(axis=0), block_error(shares))
    return curves, per_frame


def _angles(found: Pairs, numbers: np.ndarray) -> dict[Triple | None, np.ndarray]:
    """Degrees, of all and of each triple of elements that there is; {} where there is none."""
    left, right = _bond_pairs(found, len(numbers))
    if not len(left):
        return {}
    unit = found.vector / found.distance[:, None]
    cosine = np.clip(np.einsum("ei,ei->e", unit[left], unit[right]), -1.0, 1.0)
    angles = np.degrees(np.arccos(cosine))
    ends = np.sort(numbers[np.stack([found.sender[left], found.sender[right]])], axis=0)
    base = len(covalent_radii)  # no atomic number is as large: triples as one number are fast to sort out
    codes = (ends[0] * base + numbers[found.receiver[left]]) * base + ends[1]
    parts: dict[Triple | None, np.ndarray] = {None: angles}
    for code in np.unique(codes):
        first, centre, last = code // base**2, code // base % base, code % base
        parts[int(first), int(centre), int(last)] = angles[codes == code]
    return parts


def _bond_pairs(found: Pairs, atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Every unordered pair of edges of a receiver, as rows of ``found``."""
    row_end = np.cumsum(np.bincount(found.receiver, minlength=atoms))
    later = row_end[found.receiver] - np.arange(len(found)) - 1  # edges of the row behind each edge
    left = np.repeat(np.arange(len(found)), later)
    first = np.cumsum(later) - later
    return left, left + 1 + np.arange(len(left)) - np.repeat(first, later)


def molecular_fraction(frames: Sequence[Configuration]) -> np.ndarray:
    """[frames] share of atoms bound in a diatomic molecule of hydrogen.

    Cheng, Mazzola, Pickard, Ceriotti, Nature 585, 217 (2020): an atom's coordination number is the sum of the
    cubic switch s(r) = (y-1)²(1+2y), y = (r-0.8)/0.3, over neighbours (1 below 0.8 Å, 0 above 1.1 Å); the
    atom is molecular when that lies in 0.8 to 1.2, a range whose edges are smoothed with a Gaussian of 0.08
    (PLUMED's BETWEEN). The smoothing leaves 0.988, not 1, for an undisturbed molecule.
    """
    low, high = COORDINATION_RANGE
    width = math.sqrt(2.0) * COORDINATION_SMOOTHING
    fractions = np.empty(len(frames))
    for i, frame in enumerate(frames):
        found = find_pairs(frame, SWITCH_ZERO)
        y = np.clip((found.distance - SWITCH_FULL) / (SWITCH_ZERO - SWITCH_FULL), 0.0, 1.0)
        number = np.bincount(found.receiver, (y - 1.0) ** 2 * (1.0 + 2.0 * y), minlength=len(frame))
        fractions[i] = np.mean(0.5 * (erf((number - low) / width) - erf((number - high) / width)))
    return fractions
