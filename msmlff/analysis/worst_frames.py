"""The frames with the largest force errors: which they are, their geometry, and what the report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from msmlff.analysis.errors import Predictions
from msmlff.analysis.report_blocks import TableBlock
from msmlff.analysis.tables import NOTHING
from msmlff.analysis.tables import figure as number
from msmlff.analysis.viewer import Scene, ViewerBlock, can_show
from msmlff.data.configuration import Configuration
from msmlff.data.formats import write_frames

WORST_FRAMES = 8
FILE = "worst_frames.extxyz"


def force_errors(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Force RMSE over the components of each frame in meV/Å, and its number of labelled atoms.

    Returns:
        ([frames], NaN or infinite where a prediction is; [frames], 0 where there is no label).
    """
    squared = np.square(p.forces - p.forces_label).sum(axis=1)
    labelled = np.isfinite(p.forces_label).all(axis=1)
    sums = np.bincount(p.frame_of_atom, np.where(labelled, squared, 0.0), minlength=len(p))
    counts = np.bincount(p.frame_of_atom, labelled, minlength=len(p))
    return 1e3 * np.sqrt(sums / np.maximum(3 * counts, 1)), counts


def worst_rows(p: Predictions, count: int = WORST_FRAMES) -> np.ndarray:
    """Rows of the frames with the largest force errors, the worst first; what is not finite is the worst."""
    rmse = force_errors(p)[0]
    return np.argsort(-np.where(np.isfinite(rmse), rmse, np.inf), kind="stable")[:count]


def save_worst_frames(p: Predictions, frames: Sequence[Configuration], folder: Path) -> Path:
    """Write the geometry of the worst frames into a run folder, for the report's viewer.

    Args:
        p: predictions of ``frames``, in their order.
        folder: the run folder.
    """
    rows = worst_rows(p).tolist()
    chosen = [replace(frames[row], info={"frame_id": int(p.frame_id[row])}) for row in rows]
    path = folder / FILE
    write_frames(path, chosen)
    return path


def worst_table(p: Predictions, group_name: str) -> TableBlock:
    """The table of the frames with the largest force errors."""
    rmse, counts = force_errors(p)
    energy = 1e3 * (p.energy - p.energy_label) / p.num_atoms
    rows = []
    for i in worst_rows(p):
        force = number(float(rmse[i])) if counts[i] else NOTHING
        error = number(float(energy[i])) if np.isfinite(p.energy_label[i]) else NOTHING
        rows.append((str(p.frame_id[i]), str(p.group[i]) or NOTHING, str(p.num_atoms[i]), force, error))
    headings = ("frame", group_name, "atoms", "force RMSE / meV/Å", "energy error / meV/atom")
    return TableBlock(rows, headings, title="Frames with the largest force errors")


def worst_viewer(p: Predictions, frames: Sequence[Configuration]) -> ViewerBlock | None:
    """The worst frames as structures, atoms coloured by the error of their force.

    Args:
        frames: what ``save_worst_frames`` wrote; frames that are not among the predictions, or too large for
            a page, are left out.
    """
    rmse = force_errors(p)[0]
    first_atom = np.cumsum(p.num_atoms) - p.num_atoms
    row_of = {int(frame_id): row for row, frame_id in enumerate(p.frame_id)}
    scenes = []
    for frame in frames:
        row = row_of.get(frame.info.get("frame_id", -1))
        if row is None or p.num_atoms[row] != len(frame) or not can_show(frame):
            continue
        atoms = slice(first_atom[row], first_atom[row] + len(frame))
        errors = 1e3 * np.linalg.norm(p.forces[atoms] - p.forces_label[atoms], axis=1)
        label = f"frame {p.frame_id[row]}: {number(float(rmse[row]))} meV/Å"
        scenes.append(Scene(label, frame, errors, "meV/Å error of the force"))
    if not scenes:
        return None
    caption = (
        "Atoms are coloured by the length of the difference between the model's force and the label; red has "
        "none that is a number. Drag to turn, scroll to come nearer, point at an atom for its error."
    )
    return ViewerBlock("worst-frames", "Where the forces are worst", caption, scenes)
