"""What a simulation starts from: models, starting frames and settings of conf/simulate.yaml, all checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase.data import chemical_symbols
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError

from msmlff.app.config import build, typed
from msmlff.app.record import RECORD
from msmlff.app.runtime import pick_device
from msmlff.data.array_folder import file_sha256
from msmlff.data.configuration import Configuration
from msmlff.data.constraints import constrained_frames
from msmlff.data.formats import LabelKeys, read_frames
from msmlff.data.model_path import MODEL, model_file
from msmlff.data.neighbors import check_crowding
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.models.files import load_model
from msmlff.simulation import NPT, Committee, Limits, MDSettings, ModelForces
from msmlff.simulation.ensembles import Ensemble
from msmlff.simulation.failure import closest_pair
from msmlff.simulation.output import OutputSpec

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class SimulationSpec:
    """Keys at the top of conf/simulate.yaml that stand for themselves."""

    system: str
    index: int | list[int] | Literal["all"]
    repeat: tuple[int, int, int]
    replicas: int
    steps: int
    timestep: float
    temperature: float | list[float]
    seed: int
    remove_drift: bool
    skin: float
    picture: bool
    report_run: str | None = None
    temperature_end: float | list[float] | None = None
    ramp_steps: int | None = None
    memory_gib: float | None = None

    @classmethod
    def of(cls, config: DictConfig) -> SimulationSpec:
        """From the configuration.

        Raises:
            InputError: a value of another kind or out of range, with its key.
        """
        content: Any = OmegaConf.to_container(config, resolve=True)
        try:
            own = {f.name: content[f.name] for f in fields(cls) if f.name in content}
            spec = TypeAdapter(cls).validate_python(own)
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(
                f"{first['loc'][0]}={content.get(first['loc'][0])!r}: {_advice(first)}"
            ) from None
        for key in ("steps", "replicas"):
            if getattr(spec, key) < 1:
                raise InputError(f"{key}={getattr(spec, key)}: write a whole number >= 1")
        if spec.memory_gib is not None and not spec.memory_gib > 0:
            raise InputError(f"memory_gib={spec.memory_gib}: write a positive number of GiB, or null")
        for key, unit in (("timestep", "fs"), ("skin", "Å")):
            if not 0 < getattr(spec, key) < math.inf:
                raise InputError(f"{key}={getattr(spec, key):g}: write a positive number of {unit}")
        if spec.report_run is not None and not (Path(spec.report_run) / RECORD).is_file():
            raise InputError(
                f"report_run={spec.report_run}: no run there; write the folder of a training run, or null"
            )
        if min(spec.repeat) < 1:
            raise InputError(f"repeat={list(spec.repeat)}: write three whole numbers >= 1, as [2, 2, 2]")
        return spec

    @property
    def kelvin(self) -> str:
        """The bath's temperatures in words."""
        if not isinstance(self.temperature, float) or isinstance(self.temperature_end, list):
            return "several temperatures"
        if self.temperature_end is None:
            return f"{self.temperature:g} K"
        return f"{self.temperature:g} to {self.temperature_end:g} K"

    def bath(self) -> tuple[list[float], list[float]] | None:
        """Times in ps and the bath's temperatures in K, corners of a line; None where replicas differ."""
        if not isinstance(self.temperature, float) or isinstance(self.temperature_end, list):
            return None
        end = self.temperature if self.temperature_end is None else self.temperature_end
        turn = min(self.steps, self.ramp_steps or self.steps)
        share = turn / (self.ramp_steps or self.steps)  # a run may be shorter than its ramp
        last = (1.0 - share) * self.temperature + share * end
        times = [1e-3 * self.timestep * step for step in (0, turn, self.steps)]
        return times, [self.temperature, last, last]


@dataclass(frozen=True)
class Setup:
    """A simulation that can be started.

    Attributes:
        spec, ensemble, settings, output: of the configuration.
        models: on their device.
        hashes: of the model files.
        starts: a configuration a replica.
    """

    spec: SimulationSpec
    ensemble: Ensemble
    settings: MDSettings
    output: OutputSpec
    models: list[ForceField]
    hashes: list[str]
    starts: list[Configuration]

    @property
    def ramps(self) -> bool:
        """Whether temperature or pressure change in the course of the run."""
        pressure_end = self.ensemble.pressure_end if isinstance(self.ensemble, NPT) else None
        return not (self.spec.temperature_end is None and pressure_end is None)

    @property
    def forces(self) -> ModelForces | Committee:
        gib = self.spec.memory_gib
        return ModelForces(self.models[0], gib) if len(self.models) == 1 else Committee(self.models, gib)


def prepare_simulation(config: DictConfig, starts: list[Configuration] | None = None) -> Setup:
    """Read and check everything that the configuration names.

    Args:
        config: of conf/simulate.yaml, resolved.
        starts: those of a simulation that is gone on with; None: read them from ``system``.

    Raises:
        InputError: whatever cannot be used, by its key or file.
    """
    spec = SimulationSpec.of(config)
    ensemble = build(config.ensemble, "ensemble")
    limits, output = typed(Limits, config.limits, "limits"), typed(OutputSpec, config.output, "output")
    settings = MDSettings(
        timestep_fs=spec.timestep,
        temperature=spec.temperature,
        temperature_end=spec.temperature_end,
        ramp_steps=spec.ramp_steps,
        seed=spec.seed,
        skin=spec.skin,
        remove_drift=spec.remove_drift,
        limits=limits,
    )
    paths = model_files(config.models)
    if limits.max_deviation is not None and len(paths) == 1:
        raise InputError("limits.max_deviation needs a committee: write models=[RUN1,RUN2,...]")
    device = pick_device(config.device)
    models = [load_model(path, _DTYPES[config.dtype], device).requires_grad_(False) for path in paths]
    if starts is None:
        starts = read_starts(spec)
        cutoff = max(model.cutoff for model in models)
        for frame in {id(start): start for start in starts}.values():  # replicas of a frame are one object
            check_start(frame, models[0].atomic_numbers, cutoff, spec.skin, limits.min_distance)
    return Setup(spec, ensemble, settings, output, models, [file_sha256(p) for p in paths], starts)


def model_files(given: Any) -> list[Path]:
    """The files of ``models``: run folders or model files, one or a list.

    Raises:
        InputError: none, one that is not there, or the same one twice.
    """
    content: Any = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    names: list[Any] = content if isinstance(content, list) else [content]
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"model={content}: write a run folder or a model file, or models=[A,B] for several")
    for name in names:
        _refuse_checkpoint(Path(name))
    files = [model_file(name, "model") for name in names]
    hashes = [file_sha256(path) for path in files]
    for i, value in enumerate(hashes):
        if value in hashes[:i]:
            raise InputError(
                f"models: {names[hashes.index(value)]} and {names[i]} are the same model, which always "
                "agrees with itself: give each once"
            )
    return files


def _refuse_checkpoint(path: Path) -> None:
    run = path.parent.parent
    if path.suffix == ".ckpt" and path.is_file() and (run / RECORD).is_file():
        raise InputError(
            f"model={path} is a checkpoint to resume training from; the model of that run is {run / MODEL}: "
            f"write model={run}"
        )


def read_starts(spec: SimulationSpec) -> list[Configuration]:
    """A configuration a replica: the chosen frames, repeated, ``replicas`` times each.

    Raises:
        InputError: no such file or frame, a constraint in a frame, or a repetition along a direction that is
            not periodic.
    """
    path = Path(spec.system)
    if not path.is_file():
        raise InputError(f"system={path}: there is no such file")
    no_labels = LabelKeys(energy=None, forces=None, stress=None, virial=None, group=None, weight=None)
    frames = list(read_frames(path, no_labels))
    chosen = range(len(frames)) if spec.index == "all" else _listed(spec.index)
    for i in chosen:
        if not -len(frames) <= i < len(frames):
            raise InputError(f"index={i}: {path} has frames 0 to {len(frames) - 1}")
    refuse_constraints(path, [i % len(frames) for i in chosen])
    return [start for i in chosen for start in [repeated(frames[i], spec.repeat)] * spec.replicas]


def refuse_constraints(path: Path, chosen: Iterable[int]) -> None:
    """Every atom moves here; a file that holds some of them means another run.

    Args:
        path: of frames that could be read.
        chosen: the frames that count, from 0.

    Raises:
        InputError: one of them has constraints as ASE reads them: move_mask, selective dynamics and the like.
    """
    found = constrained_frames(path)
    for i in chosen:
        if i in found:
            raise InputError(
                f"{path}:{i} holds atoms ({', '.join(found[i])}: a move_mask, selective dynamics or "
                "another constraint), but simulate moves all: take the constraint out if that is meant (ase "
                f"convert -e 'atoms.set_constraint()' {path.name} free.extxyz), or run ASE's dynamics with "
                "MSMLFFCalculator"
            )


def _listed(index: Any) -> list[int]:
    return index if isinstance(index, list) else [index]


def repeated(frame: Configuration, times: Sequence[int]) -> Configuration:
    """A supercell of the frame, without labels.

    Raises:
        InputError: it is repeated along a direction in which it is not periodic.
    """
    for axis, count in enumerate(times):
        if count > 1 and not frame.pbc[axis]:
            raise InputError(
                f"repeat={list(times)}: {frame.source} is not periodic along {'abc'[axis]}; write 1 there"
            )
    shifts = np.indices(tuple(times)).reshape(3, -1).T @ frame.cell
    return Configuration(
        numbers=np.tile(frame.numbers, len(shifts)),
        positions=(frame.positions[None] + shifts[:, None]).reshape(-1, 3),
        cell=frame.cell * np.array(times)[:, None],
        pbc=frame.pbc,
        source=frame.source,
    )


def check_start(
    frame: Configuration, atomic_numbers: Sequence[int], cutoff: float, skin: float, min_distance: float
) -> None:
    """Whether a model can start from a frame.

    Args:
        frame: the configuration.
        atomic_numbers: the elements the model knows.
        cutoff: Å, of the model.
        skin: Å, beyond it, up to which neighbours will be searched.
        min_distance: Å, closer atoms overlap.

    Raises:
        InputError: elements the model never saw, positions or a cell that are not finite, a cell too small to
            be one in Å, a skin with too many neighbours, a periodic direction without a lattice vector,
            overlapping atoms.
    """
    unknown = sorted(set(frame.numbers.tolist()) - set(atomic_numbers))
    if unknown:
        names, known = (", ".join(chemical_symbols[z] for z in zs) for zs in (unknown, atomic_numbers))
        raise InputError(
            f"{frame.source}: the model never saw {names}, it knows {known}; simulate with a model trained "
            "on all elements of the system"
        )
    if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all()):
        raise InputError(f"{frame.source}: positions or cell hold NaN or infinite values")
    try:
        check_crowding(len(frame), frame.cell, frame.pbc, cutoff)
    except InputError as error:
        raise InputError(f"{frame.source}: {error}") from None
    try:
        check_crowding(len(frame), frame.cell, frame.pbc, cutoff + skin)
    except InputError as error:
        crowd = str(error).split(":")[0]
        raise InputError(f"skin={skin:g}: {crowd} ({frame.source}); write less, as 0.5") from None
    try:
        distance, atoms = closest_pair(frame, max(min_distance, 1e-3))
    except InputError as error:
        raise InputError(f"{frame.source}: {error}") from None
    if atoms:
        names = " and ".join(f"{chemical_symbols[frame.numbers[a]]} {a}" for a in atoms)
        what = f"atoms {names} are" if len(atoms) == 2 else f"atom {names} and its own image are"
        raise InputError(
            f"{frame.source}: {what} {distance:.3g} Å apart: they overlap. Relax the structure first, or "
            f"lower limits.min_distance ({min_distance:g} Å) if that is meant"
        )


def _advice(error: Any) -> str:
    message = str(error["msg"])
    return f"{message[0].lower()}{message[1:]}"
