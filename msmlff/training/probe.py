"""What a choice of frames is worth to a model that is fitted to the end: ridge regression on random ACE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from msmlff.analysis.errors import Predictions
from msmlff.data.neighbors import neighbor_list
from msmlff.data.pools import Pool
from msmlff.data.store import FrameStore
from msmlff.distill.feature_cache import Job, cache_folder, cached_rows
from msmlff.errors import DivergenceError, InputError
from msmlff.models.random_ace import RandomACE
from msmlff.training.learner import Learner

DESIGN_VERSION = 1
"""Of the code that makes design matrices: raise it whenever their numbers change."""

RIDGES = tuple(10.0**power for power in range(-11, 0))
BATCH = 8  # frames whose design is computed between two entries of the journal
BLOCK_ROWS = 16384  # rows held at a time in float64


@dataclass(frozen=True)
class RidgeProbe(Learner):
    """A linear model, fitted exactly: no optimiser, no number of steps, a second for each fit.

    min_w sum_frames [3 n (energy_weight dE / n)^2 + |dF|^2] / rows + ridge |w|^2, in columns scaled to unit
    mean square; the ridge is the one of 10^-11 ... 10^-1 with the smallest loss on the validation frames. The
    seed draws the random radial channels.

    Attributes:
        cutoff, channels, l_max, num_bessel: see RandomACE.
        energy_weight: 1/Å, what an error of 1 eV/atom weighs against one of 1 eV/Å in a force component.
    """

    cutoff: float = 3.0
    channels: int = 16
    l_max: int = 3
    num_bessel: int = 8
    energy_weight: float = 10.0

    def __post_init__(self) -> None:
        if not self.energy_weight > 0:
            raise InputError(f"learner.energy_weight={self.energy_weight}: write a number above 0")
        RandomACE((1,), self.cutoff, self.channels, self.l_max, self.num_bessel)

    def predictions(self, pool: Pool, ids: Sequence[int] | np.ndarray, seed: int) -> Predictions:
        train, val, test = (self._design(pool, part, seed) for part in ("train", "val", "test"))
        chosen = np.asarray(ids, dtype=np.int64)
        baseline = _baseline(train, chosen)
        normal = _normal_equations(train, chosen, self.energy_weight)
        moment = normal.moments @ np.concatenate([[1.0], -baseline])
        candidates = _solutions(normal.gram, moment, normal.rows)
        losses = _losses(val, candidates, baseline, self.energy_weight)
        if not np.isfinite(losses).any():
            raise DivergenceError("no ridge gave a finite loss on the validation frames")
        return _predict(test, candidates[:, int(np.nanargmin(losses))], baseline)

    def _design(self, pool: Pool, part: str, seed: int) -> _Design:
        store = getattr(pool, part)
        if store is None:
            raise InputError(
                f"the pool has no {part} frames: set pool.{part}=[FILE] or pool.fractions.{part}"
            )
        ace = RandomACE(pool.atomic_numbers, self.cutoff, self.channels, self.l_max, self.num_bessel, seed)
        return _design(store, ace)


@dataclass(frozen=True, eq=False)
class _Design:
    """Design matrix and labels of a set of frames; rows of a frame: its energy, then its forces.

    Attributes:
        matrix: [rows, columns] float32, memory-mapped.
        offsets: [frames + 1] first row of each frame.
        labels: [rows] float64 eV, eV/Å; NaN where there is none.
        composition: [frames, species].
        store: the frames.
    """

    matrix: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    composition: np.ndarray
    store: FrameStore

    def blocks(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(frames, rows) for whole frames, in the order of ids, of about BLOCK_ROWS rows."""
        sizes = np.diff(self.offsets)[ids]
        block = np.cumsum(sizes) // BLOCK_ROWS
        for b in np.unique(block):
            frames = ids[block == b]
            rows = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in frames]
            yield frames, np.concatenate(rows)


_designs: dict[tuple[str, RandomACE], _Design] = {}  # opened in this process, by content


def _design(store: FrameStore, ace: RandomACE) -> _Design:
    key = (store.hash, ace)
    if key not in _designs:
        _designs[key] = _make_design(store, ace)
    return _designs[key]


def _make_design(store: FrameStore, ace: RandomACE) -> _Design:
    offsets = np.concatenate([[0], np.cumsum(1 + 3 * store.num_atoms)])
    settings = {"design": "RandomACE", "version": DESIGN_VERSION, **asdict(ace)}

    def compute(ids: range) -> np.ndarray:
        frames = [store[i] for i in ids]
        lists = [neighbor_list(f.positions, f.cell, f.pbc, ace.cutoff) for f in frames]
        return np.concatenate([ace.design(f, n) for f, n in zip(frames, lists, strict=True)])

    batches = [(i, min(i + BATCH, len(store))) for i in range(0, len(store), BATCH)]
    folder = cache_folder(store, "design", settings)
    matrix = cached_rows(Job(folder, offsets, settings, lambda: batches, lambda: compute))
    labels = np.full(offsets[-1], np.nan)
    for i, frame in enumerate(store):
        labels[offsets[i]] = frame.energy
        if frame.forces is not None:
            labels[offsets[i] + 1 : offsets[i + 1]] = frame.forces.ravel()
    return _Design(matrix, offsets, labels, store.composition[:, list(ace.atomic_numbers)], store)


def _baseline(design: _Design, ids: np.ndarray) -> np.ndarray:
    """[species] eV, least-squares energies of the species in the chosen frames, the smallest where they are
    not determined."""
    energy = design.labels[design.offsets[ids]]
    known = np.isfinite(energy)
    if not known.any():
        raise InputError("none of the chosen frames has an energy: the probe needs energies")
    return np.linalg.lstsq(design.composition[ids][known].astype(np.float64), energy[known], rcond=None)[0]


def _weighted(
    design: _Design, frames: np.ndarray, rows: np.ndarray, energy_weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted design [rows, columns] and targets [rows, 1 + species] in float64: the labels, and what one eV
    of each species' energy adds to them. Rows without a label are left out."""
    x = design.matrix[rows].astype(np.float64)
    y = np.zeros((len(rows), 1 + design.composition.shape[1]))
    y[:, 0] = design.labels[rows]
    sizes = np.diff(design.offsets)[frames]
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    atoms = (sizes - 1) / 3
    y[first, 1:] = design.composition[frames]
    factor = energy_weight * np.sqrt(3 * atoms) / atoms
    x[first] *= factor[:, None]
    y[first] *= factor[:, None]
    known = np.isfinite(y[:, 0])
    return (x, y) if known.all() else (x[known], y[known])


@dataclass(frozen=True, eq=False)
class _NormalEquations:
    """X^T X [columns, columns] and X^T Y [columns, 1 + species] of some frames, and their number of rows."""

    frames: frozenset[int]
    gram: np.ndarray
    moments: np.ndarray
    rows: int


_last: tuple[_Design, float, _NormalEquations] | None = None  # of this process


def _normal_equations(design: _Design, ids: np.ndarray, energy_weight: float) -> _NormalEquations:
    """Those of the last call are added to where it had a part of these frames: budgets of a nested selector
    grow."""
    global _last
    columns = design.matrix.shape[1]
    gram, moments = np.zeros((columns, columns)), np.zeros((columns, 1 + design.composition.shape[1]))
    count, there = 0, frozenset[int]()
    if _last is not None and _last[:2] == (design, energy_weight) and _last[2].frames <= set(ids.tolist()):
        there, gram, moments, count = _last[2].frames, _last[2].gram, _last[2].moments, _last[2].rows
        gram, moments = gram.copy(), moments.copy()
    for frames, rows in design.blocks(ids[~np.isin(ids, list(there))]):
        x, y = _weighted(design, frames, rows, energy_weight)
        gram += x.T @ x
        moments += x.T @ y
        count += len(y)
    result = _NormalEquations(frozenset(ids.tolist()), gram, moments, count)
    _last = (design, energy_weight, result)
    return result


def _solutions(gram: np.ndarray, moment: np.ndarray, rows: int) -> np.ndarray:
    """[columns, ridges] the parameters for every ridge."""
    size = np.sqrt(np.diag(gram) / rows)
    scale = np.where(size > 1e-12 * size.max(initial=0.0), 1 / np.where(size > 0, size, 1.0), 0.0)
    values, vectors = np.linalg.eigh(gram * scale[:, None] * scale / rows)
    projected = vectors.T @ (moment * scale / rows)
    damped = projected[:, None] / (np.maximum(values, 0.0)[:, None] + np.array(RIDGES))
    return scale[:, None] * (vectors @ damped)


def _losses(
    design: _Design, candidates: np.ndarray, baseline: np.ndarray, energy_weight: float
) -> np.ndarray:
    """[ridges] mean squared weighted residual."""
    total, count = np.zeros(candidates.shape[1]), 0
    weights = np.concatenate([[1.0], -baseline])
    for frames, rows in design.blocks(np.arange(len(design.store))):
        x, y = _weighted(design, frames, rows, energy_weight)
        total += ((x @ candidates - (y @ weights)[:, None]) ** 2).sum(axis=0)
        count += len(y)
    return total / max(count, 1)


def _predict(design: _Design, parameters: np.ndarray, baseline: np.ndarray) -> Predictions:
    store, first = design.store, design.offsets[:-1]
    values = np.empty(len(design.labels))
    for _, rows in design.blocks(np.arange(len(store))):
        values[rows] = design.matrix[rows] @ parameters.astype(np.float32)
    e0 = design.composition @ baseline
    values[first] = design.matrix[first].astype(np.float64) @ parameters + e0
    is_force = np.ones(len(values), dtype=bool)
    is_force[first] = False
    nothing = np.full((len(store), 3, 3), np.nan)
    return Predictions(
        frame_id=np.arange(len(store)),
        num_atoms=store.num_atoms,
        group=store.group,
        energy_label=design.labels[first],
        energy=values[first],
        e0_energy=e0,
        numbers=np.concatenate([frame.numbers for frame in store]),
        forces_label=design.labels[is_force].reshape(-1, 3),
        forces=values[is_force].reshape(-1, 3),
        stress_label=nothing,
        stress=nothing,
    )
