"""Information entropy of atomic environments, and how much of one set another has seen.

Schwalbe-Koda, Hamel, Sadigh, Zhou, Lordi, Nat. Commun. 16, 4014 (2025), arXiv:2404.12367 (QUESTS), with the
Gaussian kernel K_h(x, y) = exp(-|x - y|² / (2 h²)); all values are in nats:

    entropy               H(X)      = -1/n sum_i log(1/n sum_j K_h(x_i, x_j))        between 0 and log n
    differential entropy  dH(y | X) = -log sum_j K_h(y, x_j)                         <= 0: X has seen y

Environments of different elements have the kernel 0 here. Sums run over blocks, so memory does not grow with
the sets.
"""

from __future__ import annotations

import numpy as np

from msmlff.distill.features import Features
from msmlff.distill.row_products import exponential_sums
from msmlff.distill.space import environment_space
from msmlff.errors import InputError

BLOCK = 1 << 20  # kernel values held at a time: 4 to 8 MiB, which stays in the cache
ROWS = 1024  # rows of the one side that meet each block of the other
EXPONENT_ERROR = 1e-3  # largest error of an exponent for which float32 will do
UNDERFLOW = 1e-30  # sums below it are taken again in float64, relative to their largest term
SAMPLE = 128  # environments that decide the default bandwidth
SEARCHED = 40_000  # environments, of whole frames, that they are compared with
QUARTER = 20_000  # environments that just cover a typical one at the default bandwidth, at most


def entropy(x: np.ndarray, bandwidth: float, elements: np.ndarray | None = None) -> float:
    """Information entropy H(X) in nats.

    Args:
        x: [n, columns] environments.
        bandwidth: h, in units of the columns.
        elements: [n] atomic numbers; None: all are the same.

    Raises:
        InputError: a bandwidth that is not positive.
    """
    return float(np.log(len(x)) - log_kernel_sums(x, x, bandwidth, elements, elements).mean())


def delta_entropy(
    y: np.ndarray,
    x: np.ndarray,
    bandwidth: float,
    y_elements: np.ndarray | None = None,
    x_elements: np.ndarray | None = None,
) -> np.ndarray:
    """[len(y)] differential entropy dH(y | X) in nats of each environment of ``y`` given ``x``; infinite
    where ``x`` has none of its element. Arguments as in :func:`log_kernel_sums`."""
    return -log_kernel_sums(y, x, bandwidth, y_elements, x_elements)


def overlap(
    y: np.ndarray,
    x: np.ndarray,
    bandwidth: float,
    y_elements: np.ndarray | None = None,
    x_elements: np.ndarray | None = None,
) -> float:
    """Share of ``y`` that ``x`` has seen, dH(y | X) <= 0 (to 1e-5, as in QUESTS)."""
    return float((delta_entropy(y, x, bandwidth, y_elements, x_elements) < 1e-5).mean())


def log_kernel_sums(
    y: np.ndarray,
    x: np.ndarray,
    bandwidth: float,
    y_elements: np.ndarray | None = None,
    x_elements: np.ndarray | None = None,
) -> np.ndarray:
    """[len(y)] float64 log sum_j K_h(y_i, x_j) over the x_j of the element of y_i.

    Products are in float32 where the exponents are then right to 1e-3, else in float64; sums are in float64.
    Nothing underflows: far from every ``x`` the result is -|y - x|² / (2 h²) of the nearest ones.

    Args:
        y: [m, columns].
        x: [n, columns]; may be memory-mapped.
        bandwidth: h > 0.
        y_elements: [m] atomic numbers; None: all are the same.
        x_elements: [n], given if and only if ``y_elements`` is.
    """
    if not bandwidth > 0:
        raise InputError(f"bandwidth={bandwidth}: write a positive length")
    if (y_elements is None) != (x_elements is None):
        raise InputError("elements are given for one set of environments and not for the other")
    centre = np.asarray(x.mean(axis=0, dtype=np.float64)) if len(x) else np.zeros(x.shape[1])
    result = np.full(len(y), -np.inf)
    for own, theirs in _same_element(y_elements, x_elements, len(y), len(x)):
        for start in range(0, len(own), ROWS):
            part = own[start : start + ROWS]
            a = (np.asarray(y[part], dtype=np.float64) - centre) / bandwidth
            result[part] = _log_sums(a, x, theirs, centre, bandwidth)
    return result


def exponents(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[m, n] -|a_i - b_j|² / 2 of rows in units of the bandwidth, in their own precision, at most 0."""
    product = left(a) @ right(b).T
    return np.minimum(product, 0.0, out=product)


def left(a: np.ndarray) -> np.ndarray:
    """[m, columns + 2] so that ``left(a) @ right(b).T`` is -|a_i - b_j|² / 2: one product instead of two more
    passes over the result."""
    half = np.einsum("ij,ij->i", a, a)[:, None] * a.dtype.type(-0.5)
    return np.concatenate([a, half, np.ones((len(a), 1), a.dtype)], axis=1)


def right(b: np.ndarray) -> np.ndarray:
    """[n, columns + 2]: see :func:`left`."""
    half = np.einsum("ij,ij->i", b, b)[:, None] * b.dtype.type(-0.5)
    return np.concatenate([b, np.ones((len(b), 1), b.dtype), half], axis=1)


def precision(*scaled: np.ndarray) -> type[np.floating]:
    """float32 if ``exponents`` of these rows, in units of the bandwidth, are right to ``EXPONENT_ERROR`` in
    it, else float64."""
    size = sum(float(np.einsum("ij,ij->i", rows, rows).max(initial=0.0)) for rows in scaled)
    return np.float32 if float32_error(np.array(size)) < EXPONENT_ERROR else np.float64


def float32_error(squares: np.ndarray) -> np.ndarray:
    """Error of a float32 exponent of two rows whose squared lengths add up to ``squares``."""
    # The rounding of a product of many columns averages out: a quarter of the bound, with room.
    error: np.ndarray = squares * (np.finfo(np.float32).eps / 4)
    return error


def default_bandwidth(features: Features, components: int | None) -> float:
    """The bandwidth that a pool's own environments suggest: at it, a random quarter of the pool (at most
    20,000 environments) just covers a typical environment of the rest.

    QUESTS' 0.015 belongs to QUESTS' descriptor; no number serves every descriptor. Here h solves
    median_i log(1/t sum_j K_h(x_i, x_j)) = 0, with j over the environments of OTHER frames and t the times
    that the quarter goes into them. Copies (distance 0) do not count. i runs over 128 environments, j over at
    most 40,000 of whole frames, drawn with a fixed seed. The precision is 1 %; computed once.

    Args:
        components: of ``environment_space``.
    """
    return features.remember(("bandwidth", components), lambda: _default_bandwidth(features, components))


def _default_bandwidth(features: Features, components: int | None) -> float:
    space = environment_space(features, components)
    rng = np.random.default_rng(0)
    rows, frame = rows_of(features, part_of_frames(features, np.arange(len(features)), SEARCHED, rng))
    sample = np.sort(rng.choice(len(rows), size=min(len(rows), SAMPLE), replace=False))
    numbers = np.asarray(features.numbers)[rows]
    coordinates = space(features.rows[rows])
    # A difference of large numbers in float32: below this share of the squares it is rounding.
    noise = 1e-6 * float(np.einsum("ij,ij->i", coordinates, coordinates).max())
    halves = exponents(coordinates[sample].astype(np.float32), coordinates.astype(np.float32))
    halves[(halves >= -noise) | (frame[sample, None] == frame)] = -np.inf
    halves[numbers[sample, None] != numbers] = -np.inf
    halves = halves[np.isfinite(halves).any(axis=1)]
    if not len(halves):
        return 1.0
    target = len(rows) / min(len(features.rows) / 4, QUARTER)
    high = 0.5 * np.log(-2 * halves[np.isfinite(halves)].min())
    low = 0.5 * np.log(-2 * np.median(halves.max(axis=1))) - 2
    kernel = np.empty_like(halves)
    while high - low > 0.01:
        middle = (low + high) / 2
        np.exp(np.multiply(halves, np.float32(np.exp(-2 * middle)), out=kernel), out=kernel)
        covers = np.median(kernel.sum(axis=1)) >= target
        low, high = (low, middle) if covers else (middle, high)
    return float(np.exp((low + high) / 2))


def part_of_frames(features: Features, frames: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Ascending ids: ``frames``, or a random part of them with at most ``most`` atoms (at least one
    frame)."""
    if features.num_atoms[frames].sum() <= most:
        return np.sort(frames)
    order = rng.permutation(frames)
    fits = int(np.searchsorted(np.cumsum(features.num_atoms[order]), most, side="right"))
    return np.sort(order[: max(1, fits)])


def rows_of(features: Features, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, frame): the indices of the rows of ``frames``, in this order, and the frame of each."""
    counts = features.num_atoms[frames]
    frame = np.repeat(frames, counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(features.offsets[frames], counts) + np.arange(len(frame)) - first, frame


def _same_element(
    ours: np.ndarray | None, theirs: np.ndarray | None, m: int, n: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Index lists (of the one set, of the other) of each element that both have."""
    if ours is None or theirs is None:
        return [(np.arange(m), np.arange(n))] if n else []
    return [(np.flatnonzero(ours == z), np.flatnonzero(theirs == z)) for z in np.intersect1d(ours, theirs)]


def _log_sums(
    a: np.ndarray, x: np.ndarray, members: np.ndarray, centre: np.ndarray, bandwidth: float
) -> np.ndarray:
    """log_kernel_sums of rows ``a`` in units of the bandwidth, over the rows ``members`` of ``x``."""
    sums, step = np.zeros(len(a)), max(1, BLOCK // max(1, len(a)))
    blocks = [members[start : start + step] for start in range(0, len(members), step)]
    for block in blocks:
        b = (np.asarray(x[block], dtype=np.float64) - centre) / bandwidth
        kind = precision(a, b)
        sums += exponential_sums(left(a.astype(kind)), right(b.astype(kind)))[0]
    far = np.flatnonzero(sums < UNDERFLOW)
    with np.errstate(divide="ignore"):
        logs = np.log(sums)
    if len(far):
        logs[far] = -np.inf
        for block in blocks:
            b = (np.asarray(x[block], dtype=np.float64) - centre) / bandwidth
            e = exponents(a[far], b)
            top = e.max(axis=1)
            logs[far] = np.logaddexp(logs[far], top + np.log(np.exp(e - top[:, None]).sum(axis=1)))
    return logs
