"""A durable cache of labels: one small file a frame, keyed by what the label depends on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.data.configuration import Configuration
from msmlff.labeling.engine import LabelResult

# A timeout or a dead process may go away on another day or machine; the others are properties of the frame.
LASTING = ("ok", "scf_failed", "nan", "implausible")


def label_key(frame: Configuration, settings: dict[str, Any]) -> str:
    """Hex digest of the frame's geometry (exact bits) and the engine's settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(frame.numbers, dtype=np.int64).tobytes())
    digest.update(np.ascontiguousarray(frame.positions, dtype=np.float64).tobytes())
    digest.update(np.ascontiguousarray(frame.cell, dtype=np.float64).tobytes())
    digest.update(np.ascontiguousarray(frame.pbc, dtype=bool).tobytes())
    return digest.hexdigest()


class LabelCache:
    """Results on disk under ``folder``; safe for several writers: a file appears whole or not at all."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"

    def get(self, key: str) -> LabelResult | None:
        """The stored result, or None where there is none (an unreadable file counts as none)."""
        try:
            with np.load(self.path(key), allow_pickle=False) as stored:
                head = json.loads(str(stored["head"]))
                arrays = {name: stored[name] for name in ("forces", "stress") if name in stored}
                return LabelResult(**head, energy=float(stored["energy"]), **arrays, cached=True)
        except Exception:  # damaged bytes can raise anything
            return None

    def put(self, key: str, result: LabelResult) -> None:
        """Store a lasting result; others are passed over."""
        if result.status not in LASTING:
            return
        path = self.path(key)
        path.parent.mkdir(exist_ok=True)
        head = {"status": result.status, "seconds": result.seconds, "message": result.message}
        arrays: dict[str, Any] = {"head": json.dumps(head), "energy": result.energy}
        if result.forces is not None:
            arrays["forces"] = result.forces
        if result.stress is not None:
            arrays["stress"] = result.stress
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, **arrays)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:  # a full disk, Ctrl-C: nothing is left behind
            os.unlink(temporary)
            raise


def judged(result: LabelResult, max_force: float | None) -> LabelResult:
    """The result, or its rejection: a label not finite, a force component above ``max_force`` eV/Å."""
    if not result.ok or result.forces is None:
        return result
    parts = [np.asarray(result.energy), result.forces] + ([] if result.stress is None else [result.stress])
    bare = replace(result, energy=float("nan"), forces=None, stress=None)
    if not all(np.isfinite(part).all() for part in parts):
        return replace(bare, status="nan", message="energy, forces or stress are not finite")
    largest = float(np.abs(result.forces).max(initial=0.0))
    if max_force is not None and largest > max_force:
        return replace(bare, status="implausible", message=f"a force component of {largest:.1f} eV/Å")
    return result
