"""msmlff distill: choose the frames of a pool that are worth labelling, and write them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from msmlff.app.config import build, typed
from msmlff.app.folder import refuse_other
from msmlff.app.prepare import build_descriptor, choose
from msmlff.app.runtime import command_line, pick_device, prepare
from msmlff.app.train import run_guarded
from msmlff.data.pools import PoolSpec, load_pool


def hydra_job(config: DictConfig) -> dict[str, Any]:
    """Hydra's task function of ``msmlff distill``."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    line = command_line("distill", hydra.overrides.task)
    return run_guarded(lambda console: run(config, folder, console), folder, line)


def run(config: DictConfig, folder: Path, console: Console) -> None:
    """Select from the pool's own frames; write selection.json, pool_map.npz and selected.extxyz."""
    refuse_other("distill", folder)
    prepare(config.threads, config.selection_seed)
    device = pick_device(config.device)
    spec = typed(PoolSpec, config.pool, "pool")
    with console.status(f"reading pool {spec.name}"):
        # every frame of a single file is up for choice: nothing is split off for validation
        pool = load_pool(replace(spec, fractions={}))
    selection = choose(
        pool.train,
        build(config.selector, "selector"),
        config.budget,
        build_descriptor(config.descriptor, device),
        config.selection_seed,
        folder,
        console,
    )
    console.print(
        f"{len(selection)} of {len(pool.train)} frames of {pool.name} by {selection.record['selector']}\n"
        f"{'frames':>10}  {folder / 'selected.extxyz'}\n{'record':>10}  {folder / 'selection.json'}",
        highlight=False,
        soft_wrap=True,
    )
