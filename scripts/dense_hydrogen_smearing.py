"""How the smearing of GFN1-xTB changes forces in dense hydrogen, measured against PBE frames.

    python scripts/dense_hydrogen_smearing.py PBE_FRAMES.extxyz.gz --density 0.97 --frames 6

For each electronic temperature: correlation and RMSE of the forces against PBE, and the part of the forces
that the best pair force (piecewise linear, cut off at 2.5 Å) leaves, beside that part of the PBE forces.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from msmlff.data.configuration import Configuration
from msmlff.data.formats import read_frames
from msmlff.data.neighbors import edge_vectors, neighbor_list
from msmlff.labeling import Labeler, XTBEngine

CUTOFF, NEAREST, KNOTS = 2.5, 0.55, 20  # Å, Å, number


def pair_design(frame: Configuration) -> np.ndarray:
    """[3 atoms, KNOTS] force components that unit hat functions of a pair force would make."""
    edges = neighbor_list(frame.positions, frame.cell, frame.pbc, CUTOFF)
    vectors = edge_vectors(frame.positions, frame.cell, edges)
    lengths = np.linalg.norm(vectors, axis=1)
    place = np.clip((lengths - NEAREST) / (CUTOFF - NEAREST) * (KNOTS - 1), 0.0, KNOTS - 1.001)
    knot = place.astype(int)
    share = (place - knot)[:, None]
    direction = vectors / lengths[:, None]
    design = np.zeros((len(frame), KNOTS, 3))
    np.add.at(design, (edges.receiver, knot), (1.0 - share) * direction)
    np.add.at(design, (edges.receiver, knot + 1), share * direction)
    return design.transpose(0, 2, 1).reshape(-1, KNOTS)


def unexplained(frames: Sequence[Configuration], forces: np.ndarray) -> float:
    """RMS of what the best pair force leaves of ``forces`` [components], over their RMS."""
    design = np.concatenate([pair_design(f) for f in frames])
    fitted = design @ np.linalg.lstsq(design, forces, rcond=None)[0]
    return float(np.sqrt(np.mean((forces - fitted) ** 2) / np.mean(forces**2)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pbe", type=Path, help="frames with forces and density_g_cm3")
    parser.add_argument("--density", type=float, default=0.97, help="lowest density, g/cm³")
    parser.add_argument("--frames", type=int, default=6, help="the first so many of them")
    parser.add_argument("--cache", type=Path, default=Path("work/smearing_labels"), help="folder of labels")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[300, 6000, 12000, 20000, 30000])
    args = parser.parse_args()
    dense = [f for f in read_frames(args.pbe) if f.info["density_g_cm3"] >= args.density][: args.frames]
    pbe = np.concatenate([f.forces for f in dense if f.forces is not None]).ravel()
    left = unexplained(dense, pbe)
    print(f"{len(dense)} frames; PBE: force RMS {pbe.std():.3f} eV/Å, pair residual {left:.3f}")
    for temperature in args.temperatures:
        results = Labeler(XTBEngine(electronic_temperature=temperature), args.cache).label(dense)
        if not all(r.ok for r in results):
            print(f"{temperature:8.0f} K: {[r.message for r in results if not r.ok]}")
            continue
        xtb = np.concatenate([r.forces for r in results if r.forces is not None]).ravel()
        correlation = np.corrcoef(xtb, pbe)[0, 1]
        print(
            f"{temperature:8.0f} K: force RMS {xtb.std():.3f}, correlation {correlation:.3f}, "
            f"RMSE {np.std(xtb - pbe):.3f} eV/Å, pair residual {unexplained(dense, xtb):.3f}"
        )


if __name__ == "__main__":
    main()
