"""Checks before a run spends time: the model's forces are its energy's gradient."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from msmlff.data.batch import Batch
from msmlff.data.collate import collate
from msmlff.errors import MSMLFFError
from msmlff.models.base import ForceField
from msmlff.training.data_module import FrameSet

STEP = 1e-4
TOLERANCE = 1e-4


def check_forces(model: ForceField, frames: FrameSet, index: int = 0, directions: int = 3) -> float:
    """Compare the model's forces with central differences of its energy, in float64, on one frame.

    Args:
        model: any ForceField; left as it is.
        frames: frames with neighbour lists at the model's cutoff.
        index: the frame.
        directions: random displacements of all atoms that are tried.

    Returns:
        The largest relative deviation found.

    Raises:
        MSMLFFError: where it is above 1e-4: the model is broken, training would be wasted.
    """
    reference = copy.deepcopy(model).to(device="cpu", dtype=torch.float64).eval()
    frame = frames.frames[index]
    batch = collate([frame], [frames.neighbors[index]], model.atomic_numbers)
    forces = reference(batch, forces=True, create_graph=False).forces.detach()
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(directions):
        direction = torch.randn(forces.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        slope = (
            _energy(reference, batch, STEP * direction) - _energy(reference, batch, -STEP * direction)
        ) / (2 * STEP)
        expected = -float((forces * direction).sum())
        scale = max(abs(expected), float(forces.norm()) / forces.numel() ** 0.5, 1e-6)
        worst = max(worst, abs(slope - expected) / scale)
    if not worst < TOLERANCE:
        raise MSMLFFError(
            f"the model's forces are not the gradient of its energy on {frame.source or f'frame {index}'}: "
            f"relative deviation {worst:.2e}. Nothing was trained; gate=false skips this check"
        )
    return worst


def _energy(model: ForceField, batch: Batch, displacement: torch.Tensor) -> float:
    moved = replace(batch, positions=batch.positions + displacement)
    return float(model(moved, forces=False).energy.detach().sum())
