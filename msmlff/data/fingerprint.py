"""Geometries that are the same up to translation, lattice vectors and rounding get the same 8 bytes."""

from __future__ import annotations

import hashlib

import numpy as np

from msmlff.data.configuration import Configuration

TOLERANCE = 1e-4  # Å; two copies of a frame differ by the digits they were written with


def geometry_fingerprint(frame: Configuration) -> bytes:
    """8 bytes that name a frame's elements and geometry, for finding duplicates.

    Positions are taken relative to the first atom, wrapped into the periodic cell and rounded to 1e-4 Å.
    Order of atoms and rotations count as differences; labels do not.
    """
    relative = np.asarray(frame.positions, np.float64) - frame.positions[0]
    periodic = np.asarray(frame.pbc, bool)
    lengths = np.linalg.norm(frame.cell, axis=1)
    if periodic.any() and (lengths[periodic] > 0).all():
        # Vectors of directions that are not periodic are replaced by something to invert with.
        basis = np.array(frame.cell, np.float64)
        null = np.linalg.svd(basis[periodic])[2][periodic.sum() :]
        basis[~periodic] = null
        lengths = np.where(periodic, lengths, 1.0)
        if abs(np.linalg.det(basis)) > 1e-9:
            steps = np.round(lengths / TOLERANCE)
            cells = np.round(relative @ np.linalg.inv(basis) * steps).astype(np.int64)
            grid = np.where(periodic, np.mod(cells, steps.astype(np.int64)), cells)
        else:
            grid = np.round(relative / TOLERANCE).astype(np.int64)
    else:
        grid = np.round(relative / TOLERANCE).astype(np.int64)
    cell = np.round(np.where(periodic[:, None], frame.cell, 0.0) / TOLERANCE).astype(np.int64)
    digest = hashlib.sha256(np.asarray(frame.numbers, np.int64).tobytes())
    digest.update(periodic.tobytes())
    digest.update(cell.tobytes())
    digest.update(grid.tobytes())
    return digest.digest()[:8]
