"""How long a simulation stays physical: bonds near their mean, bonds near equilibrium, the structure.

Three definitions, for the same word means three things in the literature. The first and the second look at
the bonds of the first (or a relaxed) frame, the third at the radial distribution function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from msmlff.analysis.curve import Curve
from msmlff.analysis.pairs import Pairs, image_radius
from msmlff.analysis.structure import Pair, bonds, element_pairs, frame_rdfs, rdfs
from msmlff.analysis.trajectory import Trajectory, stays_continuous
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError

MEAN_TOLERANCE = 0.5  # Å, Fu et al. 2023
EQUILIBRIUM_TOLERANCE = 5.0  # Å, MS-MACE, arXiv 2312.09490
RDF_WINDOW_FS = 1000.0  # Fu et al. 2023
RDF_THRESHOLD = 1.0  # Å; theirs for LiPS (3 for water)


@dataclass(frozen=True)
class Stability:
    """When a simulation left the physical range.

    Attributes:
        time_fs: until the first frame that is out of range; where there is none, the whole simulated time.
        stable: whether there is none.
        worst: the largest deviation seen, Å.
        tolerance: Å.
    """

    time_fs: float
    stable: bool
    worst: float
    tolerance: float


def bond_stability(
    trajectory: Trajectory,
    reference: Trajectory | Configuration | None = None,
    tolerance: float = MEAN_TOLERANCE,
) -> Stability:
    """Time until any bond is more than ``tolerance`` from its reference length.

    - The mean over a reference trajectory, 0.5 Å: Fu et al., TMLR 2023 (arXiv 2210.07237), for molecules.
    - The length in one equilibrium frame, 5 Å: MS-MACE (arXiv 2312.09490), over 50,000 Langevin steps at
      800 K; a bond that long is broken.

    Args:
        trajectory: what is judged.
        reference: means of a trajectory's, or lengths of a frame's bonds, the same atoms in the same order;
            None: the trajectory's first frame. Its bonds (``structure.bonds`` of its first frame) count.
        tolerance: Å.

    Raises:
        InputError: other atoms in the reference, or no bonds.
    """
    start = reference if isinstance(reference, Configuration) else (reference or trajectory).frames()[0]
    if not np.array_equal(start.numbers, trajectory.numbers):
        raise InputError("stability: the reference holds other atoms than the trajectory, or another order")
    found = bonds(start)
    found = found.where(found.sender <= found.receiver)
    if not len(found):
        raise InputError("stability: the first frame has no bonds; use the radial distribution function")
    expected = found.distance
    if isinstance(reference, Trajectory):
        expected = bond_lengths(reference, found).mean(axis=0)
    deviation = np.abs(bond_lengths(trajectory, found) - expected).max(axis=1)
    return _judge(trajectory, deviation, tolerance)


def bond_lengths(trajectory: Trajectory, found: Pairs) -> np.ndarray:
    """[frames, bonds] Å: each bond followed from the first frame on, between the same images of its atoms.

    A bond to a periodic image stays one to that image; in the first frame it is the image whose vector is
    nearest to that of ``found``. Whole lattice vectors that a bond jumps by between two frames are taken out
    and count with the length they have in each frame, so that a bond survives the wrapping of its atoms also
    in a cell that breathes. Between frames a bond may change by less than half a lattice vector.
    """
    vectors = trajectory.positions[:, found.receiver] - trajectory.positions[:, found.sender]
    periodic = trajectory.cell[:, trajectory.pbc]
    inverse = np.linalg.pinv(periodic)
    away = np.zeros((*vectors.shape[:2], periodic.shape[1]))
    if not stays_continuous(trajectory):
        away[1:] = -np.cumsum(np.round(np.diff(vectors @ inverse, axis=0)), axis=0)
    away += np.round((found.vector - vectors[0]) @ inverse[0])
    return np.linalg.norm(vectors + away @ periodic, axis=2)


def rdf_stability(
    trajectory: Trajectory,
    reference: Mapping[Pair | None, Curve],
    window_fs: float = RDF_WINDOW_FS,
    threshold: float = RDF_THRESHOLD,
) -> Stability:
    """Time until the radial distribution function of a window leaves that of the reference.

    ∫ |<g>_reference - <g>_window| dr > threshold, for windows that begin at every frame; of several pairs of
    elements the largest counts (Fu et al., TMLR 2023: 1 ps; 3 Å and the pairs of elements for water, 1 Å and
    all atoms alike for LiPS). The time is that of the beginning of the first such window.

    Args:
        trajectory: periodic.
        reference: g by pair, on the shells that are compared: of ``stability_curves``.
        window_fs: length of the windows.
        threshold: Å.
    """
    length = max(1, round(window_fs / trajectory.need_interval("stability")))
    if len(trajectory) < length:
        raise InputError(
            f"stability: {trajectory.source or 'the trajectory'} is shorter than a window of {window_fs:g} fs"
        )
    x = next(iter(reference.values())).x
    r_max = float(x[-1] + 0.5 * (x[1] - x[0]))
    _, g = frame_rdfs(trajectory.frames(), r_max, len(x), list(reference))
    deviation = np.zeros(len(trajectory) - length + 1)
    for pair, values in g.items():
        running = np.cumsum(np.concatenate([np.zeros((1, len(x))), values]), axis=0)
        windows = (running[length:] - running[:-length]) / length
        deviation = np.maximum(deviation, np.trapezoid(np.abs(windows - reference[pair].y), x, axis=1))
    return _judge(trajectory, deviation, threshold)


def stability_curves(
    trajectory: Trajectory, partial: bool = False, bins: int = 200
) -> dict[Pair | None, Curve]:
    """The reference of ``rdf_stability`` from a trajectory: g to half the shortest lattice vector.

    Args:
        partial: of each pair of elements; else of all atoms alike.
    """
    frames = trajectory.frames()
    radius = image_radius(frames)
    if not math.isfinite(radius):
        raise InputError("stability: the radial distribution function needs periodic frames")
    return rdfs(frames, radius, bins, element_pairs(trajectory.numbers) if partial else [None])


def _judge(trajectory: Trajectory, deviation: np.ndarray, tolerance: float) -> Stability:
    """The first frame beyond the tolerance; a deviation that is not a number is beyond it."""
    time = trajectory.time_fs
    out = np.flatnonzero(~(deviation <= tolerance))
    worst = float(np.nanmax(deviation)) if np.isfinite(deviation).any() else math.inf
    end = float(time[out[0]] if len(out) else time[-1])
    return Stability(end, not len(out), worst, tolerance)
