"""Which frames of a file hold atoms: ASE's constraints, which a Configuration does not have."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np


def constrained_frames(path: Path) -> dict[int, list[str]]:
    """Frames with constraints as ASE reads them: move_mask, selective dynamics and the like.

    Args:
        path: of frames that ``read_frames`` can read.

    Returns:
        the names of their kinds, as FixAtoms, by the number of the frame.
    """
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".xyz", ".extxyz")):
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as stream:
            if not any("move_mask" in line for line in stream):
                return {}  # the usual case, without ASE's slow reader
    elif name.endswith(".data") or name.startswith("input.data"):
        return {}  # RuNNer's have none
    from ase.io import read  # half a second

    try:
        images: Any = read(path, index=":")
    except Exception:  # read_frames could read it: constraints are what ASE's own formats have
        return {}
    kinds = {i: {type(c).__name__ for c in atoms.constraints if _holds(c)} for i, atoms in enumerate(images)}
    return {i: sorted(names) for i, names in kinds.items() if names}


def _holds(constraint: Any) -> bool:
    """Whether it holds anything: ASE makes those of a mask for every atom."""
    return len(getattr(constraint, "index", [0])) > 0 and bool(np.any(getattr(constraint, "mask", True)))
