"""From a configuration to what training takes: pool, selection, reference energies, model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from msmlff.app.config import typed
from msmlff.data.door import check_leakage
from msmlff.data.pools import Pool, PoolSpec, load_pool
from msmlff.data.reference_energies import ReferenceEnergies, reference_energies
from msmlff.data.statistics import Statistics, dataset_statistics
from msmlff.data.store import FrameStore
from msmlff.distill.pool_map import PoolMap
from msmlff.distill.run import distill
from msmlff.distill.selection import Selection
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.training.data_module import FrameSet
from msmlff.training.fit import available_labels
from msmlff.training.specs import TrainingSpec


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

    Writes selection.json, pool_map.npz and selected.extxyz into ``folder``; with ``resume`` the selection is read
    from there and must belong to the pool.
    """
    spec = typed(TrainingSpec, config.training, "training")
    pool_spec = typed(PoolSpec, config.pool, "pool")
    with console.status(f"reading pool {pool_spec.name}"):
        pool = load_pool(pool_spec)
    selection = _selection(config, pool, folder, console, device, resume)
    chosen = pool.train.subset(selection.ids)
    e0s = _reference_energies(pool, chosen, pool_spec)
    model = _build_model(config, chosen, e0s, dtype)
    sets = [FrameSet.at_cutoff(s, model.cutoff) if s is not None else None for s in (chosen, pool.val, pool.test)]
    train, val, test = sets
    assert train is not None
    if val is None:
        raise InputError("the pool has no validation frames: set pool.val=FILE or pool.fractions.val")
    facts = {
        "device": device,
        "model": _model_facts(config, model),
        "data": _data_facts(pool, pool_spec, chosen, e0s),
    }
    return Prepared(model, train, val, test, spec, facts)
