"""Copies of a frame among many, whatever digits, origin and periodic images they were written with."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import minimum_image

TOLERANCE = 1e-4  # Å; two copies of a frame differ by the digits they were written with
FINGERPRINT_SIZE = 6
_SLACK = 5 * TOLERANCE  # by so much at the most do fingerprints of equal geometries differ
_WIDTH = 4 * _SLACK


def same_geometry(one: Configuration, other: Configuration) -> bool:
    """Whether two frames are copies, to 1e-4 Å.

    That is: the same elements in the same order, the same periodic directions with lattice vectors that agree
    to 1e-4 Å in each component, and all atoms, relative to the first one, within 1e-4 Å of each other's
    nearest image. A common translation does not count, nor do lattice vectors that are not periodic, nor
    labels; rotations and permutations do.
    """
    pbc = np.asarray(one.pbc, bool)
    if not np.array_equal(one.numbers, other.numbers) or not np.array_equal(pbc, other.pbc):
        return False
    if (np.abs(one.cell - other.cell)[pbc] > TOLERANCE).any():
        return False
    step = (one.positions - one.positions[0]) - (other.positions - other.positions[0])
    step = minimum_image(step, 0.5 * (one.cell + other.cell), pbc)
    return bool((np.linalg.norm(step, axis=1) <= TOLERANCE).all())


def geometry_fingerprint(frame: Configuration) -> np.ndarray:
    """[6] float64: a number for elements and periodic directions, and five lengths in Å.

    For copies (``same_geometry``) the first number is the same, and each length differs by less than 5e-4 Å:
    the summed lattice vectors, and four quantiles of the atoms' distances from the first one. In a periodic
    direction of height h the distance is h/pi |sin(pi x/h)|, which knows no images and changes no faster than
    x.
    """
    pbc = np.asarray(frame.pbc, bool)
    kind = hashlib.sha256(np.asarray(frame.numbers, np.int64).tobytes() + pbc.tobytes()).digest()
    vectors = frame.cell[pbc]
    inverse = np.linalg.pinv(vectors)
    relative = (frame.positions - frame.positions[0])[1:]
    fractional = relative @ inverse
    length = np.linalg.norm(inverse, axis=0)
    height = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    around = (height / np.pi * np.sin(np.pi * fractional)) ** 2
    along = (relative - fractional @ vectors) ** 2
    distances = np.sort(np.sqrt(around.sum(axis=1) + along.sum(axis=1)))
    quantiles = distances[np.arange(1, 5) * (len(distances) - 1) // 4] if len(distances) else np.zeros(4)
    # 6 bytes are exact in a float64
    first = float(int.from_bytes(kind[:6], "big"))
    return np.array([first, np.linalg.norm(vectors, axis=1).sum(), *quantiles])


class FingerprintIndex:
    """Ids of frames by their fingerprints: which of those added could be a copy of a given one?"""

    def __init__(self) -> None:
        self._bins: dict[tuple[float, ...], list[int]] = {}
        self._next = 0

    def add(self, fingerprint: np.ndarray) -> int:
        """Takes a frame in; returns its id: 0, 1, .."""
        key = (float(fingerprint[0]), *np.floor(fingerprint[1:] / _WIDTH).tolist())
        self._bins.setdefault(key, []).append(self._next)
        self._next += 1
        return self._next - 1

    def candidates(self, fingerprint: np.ndarray) -> Iterator[int]:
        """Ids of frames added before that ``same_geometry`` may call a copy, in order."""
        ends = np.floor((fingerprint[1:] + np.array([[-_SLACK], [_SLACK]])) / _WIDTH).T.tolist()
        keys = product([float(fingerprint[0])], *map(set, ends))
        yield from sorted(i for key in keys for i in self._bins.get(key, []))


class CopyFinder:
    """Copies within a stream of frames. Geometries wait in a temporary file, not in memory; close it."""

    def __init__(self) -> None:
        self._index = FingerprintIndex()
        self._sources: list[tuple[int, str]] = []
        self._file = tempfile.TemporaryFile(prefix="msmlff-")  # noqa: SIM115  (open while the finder is)

    def close(self) -> None:
        """Gives the disk space back."""
        self._file.close()

    def earlier_copy(self, frame: Configuration) -> str | None:
        """The source of the first frame seen with the same geometry, None for a new one, which is kept."""
        fingerprint = geometry_fingerprint(frame)
        for i in self._index.candidates(fingerprint):
            offset, source = self._sources[i]
            self._file.seek(offset)
            # a candidate has the same elements and periodic directions
            rows = np.frombuffer(self._file.read(24 * (len(frame) + 3))).reshape(-1, 3)
            if same_geometry(frame, replace(frame, cell=rows[:3], positions=rows[3:])):
                return source
        self._index.add(fingerprint)
        self._sources.append((self._file.seek(0, 2), frame.source))
        self._file.write(np.concatenate([frame.cell, frame.positions]).astype(np.float64).tobytes())
        return None
