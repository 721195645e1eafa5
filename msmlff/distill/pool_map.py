"""The pool in two dimensions, for the report: where it is dense, and what was chosen."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from msmlff.distill.cpd import CPD, Landscape
from msmlff.distill.features import Features
from msmlff.distill.selection import Selection
from msmlff.errors import InputError


@dataclass(frozen=True, eq=False)
class PoolMap:
    """One row a frame of the pool.

    Attributes:
        frame_id: [frames] int64, 0, 1, ...
        pca: [frames, 2] float64, the first two principal components of the pooled features.
        log_density: [frames] float64, log density of the frame among the others, NaN where it has no meaning.
        band: [frames] str, "central", "middle" or "peripheral"; "" where there is no density.
        chosen: [frames] bool.
        group: [frames] str.
    """

    frame_id: np.ndarray
    pca: np.ndarray
    log_density: np.ndarray
    band: np.ndarray
    chosen: np.ndarray
    group: np.ndarray

    def save(self, path: str | Path) -> None:
        """Write the arrays as .npz; the file appears whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **{f.name: getattr(self, f.name) for f in fields(self)})
        temporary.replace(path)

    @staticmethod
    def load(path: str | Path) -> PoolMap:
        """Read what :meth:`save` wrote. Raises InputError if the file is absent or is no map of a pool."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return PoolMap(**{f.name: arrays[f.name] for f in fields(PoolMap)})
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(f"{path}: not a map of a pool ({error})") from None


def pool_map(
    features: Features, selection: Selection, groups: np.ndarray | None = None, method: CPD | None = None
) -> PoolMap:
    """The map of a pool and of what any selector chose from it.

    Args:
        features: of the pool.
        selection: from the same pool.
        groups: [frames] str.
        method: whose components, density and bands to show (default: CPD with its defaults).

    Raises:
        InputError: the selection is of another pool.
    """
    selection.check_pool(features.pool_hash, len(features), "the pool of the features")
    n = len(features)
    chosen = np.zeros(n, dtype=bool)
    chosen[selection.ids] = True
    scape = _landscape(features, method or CPD())
    pca = np.zeros((n, 2))
    if scape is not None:
        two = scape.projection.coordinates[:, :2]
        pca[:, : two.shape[1]] = two
    return PoolMap(
        frame_id=np.arange(n),
        pca=pca,
        log_density=np.full(n, np.nan) if scape is None else scape.density.log,
        band=np.full(n, "") if scape is None else scape.band,
        chosen=chosen,
        group=np.full(n, "") if groups is None else np.asarray(groups, dtype=str),
    )


def _landscape(features: Features, method: CPD) -> Landscape | None:
    """None where frames cannot be told apart: a pool of one, or of duplicates, has a map without a
    density."""
    try:
        return method.landscape(features)
    except InputError:
        return None
