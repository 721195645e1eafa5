"""A model's energies, forces and stresses of labelled frames, as Predictions."""

from __future__ import annotations

import numpy as np
import torch

from msmlff.analysis.errors import Predictions
from msmlff.models.base import ForceField
from msmlff.training.data_module import FrameDataModule, FrameSet
from msmlff.training.fit import e0_table
from msmlff.training.specs import TrainingSpec


def predict(model: ForceField, frames: FrameSet, spec: TrainingSpec, device: str = "cpu") -> Predictions:
    """Evaluate ``model`` on every frame, in batches of ``spec.validation_batch``, in order.

    Stresses are computed where at least one frame carries one; elsewhere they are NaN.
    """
    data = FrameDataModule(frames, None, model.atomic_numbers, spec, seed=0)
    stress = bool(len(frames)) and any(frame.stress is not None for frame in frames.frames)
    e0s = e0_table(model)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("energy", "forces", "stress", "ids")}
    model = model.to(device).eval()
    for batch in data.evaluation_loader(frames):
        with torch.enable_grad():
            result = model(batch.to(device), forces=True, stress=stress, create_graph=False)
        parts["energy"].append(result.energy.detach().cpu().numpy())
        parts["forces"].append(result.forces.detach().cpu().numpy())
        if stress:
            parts["stress"].append(result.stress.detach().cpu().numpy())
        parts["ids"].append(batch.frame_id.cpu().numpy())
    model.to("cpu")
    labelled = list(frames.frames)
    nothing = np.full((len(labelled), 3, 3), np.nan)
    return Predictions(
        frame_id=np.concatenate(parts["ids"]),
        num_atoms=np.array([len(f) for f in labelled]),
        group=np.array([f.group for f in labelled]),
        energy_label=np.array([f.energy for f in labelled]),
        energy=np.concatenate(parts["energy"]),
        e0_energy=np.array([sum(e0s[int(z)] for z in f.numbers) for f in labelled]),
        numbers=np.concatenate([f.numbers for f in labelled]),
        forces_label=np.concatenate(
            [np.full((len(f), 3), np.nan) if f.forces is None else f.forces for f in labelled]
        ),
        forces=np.concatenate(parts["forces"]),
        stress_label=np.stack([np.full((3, 3), np.nan) if f.stress is None else f.stress for f in labelled]),
        stress=np.concatenate(parts["stress"]) if stress else nothing,
    )
