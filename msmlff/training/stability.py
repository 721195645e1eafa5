"""Stability of short molecular dynamics, started from validation frames, as a metric of validations."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from msmlff.analysis.stability import bond_stability
from msmlff.analysis.structure import bonds
from msmlff.analysis.thermodynamics import energy_drift
from msmlff.analysis.trajectory import from_frames
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.simulation import NVE, NVT, Limits, MDSettings, ModelForces, MolecularDynamics
from msmlff.simulation.ensembles import Ensemble
from msmlff.simulation.failure import closest_pair
from msmlff.training.module import ForceFieldModule
from msmlff.training.specs import StabilitySpec

SAMPLES = 100  # of temperature, energy and bonds in a run


class StabilityCheck(Callback):
    """After some validations, molecular dynamics with the validated weights; what it finds is logged.

    All replicas move in one batch. Their velocities and noise are the same at every check and draw from no
    generator of the training, so a run trains and resumes to the same bits with and without.

    Args:
        frames: of the validation set.
        spec: see StabilitySpec.
        seed: of velocities and noise.

    Raises:
        InputError: no frame can be started from.
    """

    def __init__(self, frames: Sequence[Configuration], spec: StabilitySpec, seed: int) -> None:
        self.spec, self.seed = spec, seed
        self.starts = starting_frames(frames, spec.frames)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ForceFieldModule)
        if not self._due(trainer.global_step, pl_module):
            return
        model = pl_module.eval_model
        assert isinstance(model, ForceField)
        with torch.enable_grad():  # forces are a gradient of the energy
            found = stability(model, self.starts, self.spec, self.seed)
        pl_module.val_stability = found
        pl_module.log_dict({f"val/{name}": value for name, value in found.items()})

    def _due(self, step: int, module: ForceFieldModule) -> bool:
        """By the number of the validation, which a resumed run counts alike; always after the last step."""
        assert self.spec.every is not None
        validation = math.ceil(step / module.spec.validate_every)
        return validation % self.spec.every == 0 or step == module.spec.steps


def starting_frames(frames: Sequence[Configuration], count: int) -> list[Configuration]:
    """``count`` frames spread evenly over all, or as many as there are, that dynamics can start from.

    Single atoms, and frames with a pair closer than the limit at which a replica counts as failed, are passed
    over for the next.

    Raises:
        InputError: there are none.
    """
    limit = Limits().min_distance
    chosen: list[int] = []
    for start in np.linspace(0, len(frames), count, endpoint=False).astype(int):
        following = range(max(int(start), chosen[-1] + 1 if chosen else 0), len(frames))
        good = (i for i in following if len(frames[i]) > 1 and not closest_pair(frames[i], limit)[1])
        chosen += [i for i in [next(good, None)] if i is not None]
    if not chosen:
        raise InputError(
            f"training.stability.every: no validation frame can be started from: all are single atoms or "
            f"have a pair closer than {limit:g} Å; write training.stability.every=null"
        )
    return [frames[i] for i in chosen]


def stability(
    model: ForceField, starts: Sequence[Configuration], spec: StabilitySpec, seed: int
) -> dict[str, float]:
    """Simulate the frames and say how that went; a replica that explodes is a low number, not an error.

    Args:
        model: on its device.
        starts: a replica each.
        spec: see StabilitySpec.
        seed: of velocities and noise.

    Returns:
        "stable_share": of the replicas, those that stayed within ``simulation.Limits`` and, where
        ``spec.bonds`` is set, kept their bonds; "stable_time_fs": mean time until they left, the whole time
        of those that did not. Of the replicas that came to the end, if any: "temperature_drift": K, mean over
        the second half less the bath's (at constant energy: than that of the start's velocities);
        "energy_drift": meV/atom/ps, mean size of the slope of the conserved quantity.
    """
    ensemble: Ensemble = NVE()
    if spec.thermostat is not None:
        ensemble = NVT(thermostat=spec.thermostat, thermostat_time=spec.thermostat_time)
    settings = MDSettings(timestep_fs=spec.timestep, temperature=spec.temperature, seed=seed)
    watch = _Watch(max(1, spec.steps // SAMPLES), spec.bonds is not None)
    md = MolecularDynamics(ModelForces(model), list(starts), ensemble, settings, hooks=[watch])
    md.call_hooks()
    md.run(spec.steps)
    whole = spec.steps * spec.timestep
    times = {k: md.failures[k].time_fs if k in md.failures else math.inf for k in range(len(starts))}
    if spec.bonds is not None:
        times = {k: min(t, _until_a_bond_breaks(watch.frames[k], spec)) for k, t in times.items()}
    found = {
        "stable_share": sum(t == math.inf for t in times.values()) / len(times),
        "stable_time_fs": float(np.mean([min(t, whole) for t in times.values()])),
    }
    if md.alive:
        late = [np.mean(watch.temperatures[k][len(watch.temperatures[k]) // 2 :]) for k in md.alive]
        found["temperature_drift"] = float(np.mean(late) - spec.temperature)
        slopes = [
            energy_drift(np.array(watch.times), np.array(watch.conserved[k]) / len(starts[k])).slope
            for k in md.alive
        ]
        found["energy_drift"] = float(np.mean(np.abs(slopes)))
    return found


def _until_a_bond_breaks(frames: Sequence[Configuration], spec: StabilitySpec) -> float:
    """fs; infinite where no bond does, or where there is none."""
    assert spec.bonds is not None
    if len(frames) < 2 or not len(bonds(frames[0])):
        return math.inf
    interval = max(1, spec.steps // SAMPLES) * spec.timestep
    judged = bond_stability(from_frames(frames, interval), tolerance=spec.bonds)
    return math.inf if judged.stable else judged.time_fs


class _Watch:
    """A hook that keeps temperatures (K), conserved energies (eV) and frames by the replica's number."""

    stress = False

    def __init__(self, every: int, with_frames: bool) -> None:
        self.every, self.with_frames = every, with_frames
        self.times: list[float] = []
        self.temperatures: dict[int, list[float]] = defaultdict(list)
        self.conserved: dict[int, list[float]] = defaultdict(list)
        self.frames: dict[int, list[Configuration]] = defaultdict(list)

    def __call__(self, md: MolecularDynamics) -> None:
        self.times.append(md.time_fs)
        for k, kelvin in md.temperatures().items():
            self.temperatures[k].append(kelvin)
        for k, energy in md.conserved().items():
            self.conserved[k].append(energy)
        if self.with_frames:
            for k, frame in md.frames().items():
                self.frames[k].append(frame)
