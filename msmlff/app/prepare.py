"""From a configuration to what training takes: pool, selection, reference energies, model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from omegaconf import DictConfig
from rich.console import Console

from msmlff.app.choose import Choice, choose, descriptor_of
from msmlff.app.config import build, typed
from msmlff.app.runtime import device_name
from msmlff.data.pools import Pool, PoolSpec, load_pool
from msmlff.data.reference_energies import ReferenceEnergies, reference_energies
from msmlff.data.statistics import Statistics
from msmlff.data.store import FrameStore
from msmlff.distill.selection import Selection
from msmlff.errors import InputError
from msmlff.models import ForceField, build_model
from msmlff.models.architecture import Architecture
from msmlff.models.start import start_statistics
from msmlff.training.data_module import FrameSet
from msmlff.training.fit import available_labels
from msmlff.training.specs import TrainingSpec

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Prepared:
    """Everything a run trains on, and the facts of it for the record."""

    model: ForceField
    train: FrameSet
    val: FrameSet
    test: FrameSet | None
    spec: TrainingSpec
    facts: dict[str, Any]


def prepare_run(
    config: DictConfig, folder: Path, console: Console, device: str, dtype: torch.dtype, resume: bool
) -> Prepared:
    """Load and check the pool, choose the frames, fit the reference energies, build the model.

    Writes selection.json, pool_map.npz and selected.extxyz into ``folder``; with ``resume`` the selection
    is read from there and must belong to the pool.
    """
    spec = typed(TrainingSpec, config.training, "training")
    pool_spec = typed(PoolSpec, config.pool, "pool")
    with console.status(f"reading pool {pool_spec.name}"):
        pool = load_pool(pool_spec)
    selection = _selection(config, pool, folder, console, device, resume)
    chosen = pool.train.subset(selection.ids)
    # from the labels of the chosen frames alone, unless the pool has isolated atoms
    e0s = reference_energies(chosen, pool_spec.e0s, pool.isolated, pool.atomic_numbers)
    architecture, statistics = _described(config, chosen, e0s)
    torch.manual_seed(config.seed)
    model = build_model(architecture, tuple(sorted(e0s.values)), e0s.values, statistics).to(dtype)
    sets = [
        FrameSet.at_cutoff(s, model.cutoff) if s is not None else None for s in (chosen, pool.val, pool.test)
    ]
    train, val, test = sets
    assert train is not None
    if val is None:
        raise InputError("the pool has no validation frames: set pool.val=[FILE] or pool.fractions.val")
    train.check_budget(spec.batch, "training.batch", "the chosen frames")
    val.check_budget(spec.validation_batch, "training.validation_batch", "val")
    if test is not None:
        test.check_budget(spec.validation_batch, "training.validation_batch", "test")
    facts = {
        "device": device_name(device),
        "model": _model_facts(model, architecture, statistics),
        "data": _data_facts(pool, pool_spec, chosen, e0s),
    }
    return Prepared(model, train, val, test, spec, facts)


def _selection(
    config: DictConfig, pool: Pool, folder: Path, console: Console, device: str, resume: bool
) -> Selection:
    """The chosen frames: of an interrupted run as they were, else by the selector."""
    if resume:
        selection = Selection.load(folder / "selection.json")
        selection.check_pool(pool.train.hash, len(pool.train), pool.name)
        return selection
    selection, _ = choose(
        pool.train,
        build(config.data.selector, "data.selector"),
        descriptor_of(config, device),
        Choice.of(config.data),
        folder,
        console,
    )
    return selection


def _described(
    config: DictConfig, chosen: FrameStore, e0s: ReferenceEnergies
) -> tuple[Architecture, Statistics]:
    """What the model is made of, and the statistics of the chosen frames."""
    lacking = [chemical_symbols[z] for z in sorted(e0s.values) if z not in chosen.atomic_numbers]
    if lacking:
        raise InputError(
            f"none of the {len(chosen)} chosen frames has {', '.join(lacking)}, which other frames "
            f"of the pool have: "
            "raise data.budget or choose another selector"
        )
    architecture: Architecture = build(config.model, "model")
    return architecture, start_statistics(architecture, chosen, e0s.values)


def _model_facts(model: ForceField, architecture: Architecture, statistics: Statistics) -> dict[str, Any]:
    scales = [
        {**facts, "neighbors": neighbors}
        for facts, neighbors in zip(architecture.scale_facts, statistics.neighbors, strict=True)
    ]
    return {
        "name": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "scales": scales,
    }


def _data_facts(pool: Pool, spec: PoolSpec, chosen: FrameStore, e0s: ReferenceEnergies) -> dict[str, Any]:
    rmse = e0s.residual_rmse
    return {
        "pool": pool.name,
        "pool_hash": pool.train.hash,
        "train_hash": chosen.hash,
        "n_pool": len(pool.train),
        "n_train": len(chosen),
        "n_val": len(pool.val) if pool.val is not None else 0,
        "n_test": len(pool.test) if pool.test is not None else 0,
        "species": [chemical_symbols[z] for z in pool.atomic_numbers],
        "labels": list(available_labels(chosen)),
        "label": spec.level,
        "e0s": e0s.by_symbol(),
        "e0_source": e0s.source,
        "e0_residual_rmse": rmse if np.isfinite(rmse) else None,
        "group_name": (spec.group_label or spec.keys.group) if (pool.train.group != "").any() else None,
        "door": {part: report.to_dict() for part, report in pool.reports.items()},
        "shared": pool.shared,
    }


def door_notes(facts: dict[str, Any], spec: TrainingSpec) -> list[str]:
    """Lines for the start page: what the door counted or could not check, labels that are not trained on."""
    notes = []
    unchecked: dict[str, list[str]] = {}
    for part, report in facts["data"]["door"].items():
        for defect, count in report["counts"].items():
            notes.append(f"{part}: {defect} {count} times, first: {report['examples'][defect]}")
        for check, reason in report["not_checked"].items():
            unchecked.setdefault(f"{check} not checked: {reason}", []).append(part)
    notes += [f"{pair}: {count} frames are in both parts" for pair, count in facts["data"]["shared"].items()]
    notes += [f"{', '.join(parts)}: {text}" for text, parts in unchecked.items()]
    for target in facts["data"]["labels"]:
        if spec.loss.term(target).weight == 0:
            notes.append(
                f"the pool has {target} labels, the loss does not use them (training.loss.{target}.weight=0)"
            )
    return notes
