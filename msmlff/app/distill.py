"""msmlff distill: choose the frames of a pool that are worth labelling, and write them.

With a cached descriptor the command takes less time than torch takes to import: nothing here imports it.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from msmlff import __version__
from msmlff.app.choose import Choice, choose, descriptor_of
from msmlff.app.config import build, check_values, typed
from msmlff.app.folder import CHART, MAP, claim_for_distill
from msmlff.app.guard import Job, run_guarded
from msmlff.app.map_process import drawing_process
from msmlff.app.record import Record, now
from msmlff.app.runtime import command_line, git_revision, keep_freed_memory, limit_threads, shown_path
from msmlff.data.pools import Pool, PoolSpec, load_pool
from msmlff.distill.coverage_table import coverage_table
from msmlff.distill.pool_map import PoolMap
from msmlff.distill.selection import Selection


def hydra_job(config: DictConfig) -> dict[str, Any]:
    """Hydra's task function of ``msmlff distill``."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    line = command_line("distill", hydra.overrides.task)
    job = Job(folder, line, keep_going=hydra.mode == RunMode.MULTIRUN)
    return run_guarded(lambda console: run(config, job, console), job)


def run(config: DictConfig, job: Job, console: Console) -> None:
    """Select from the pool's own frames; write selection.json, selected.extxyz, record.json, the map.

    Args:
        config: of conf/distill.yaml.
        job: folder and command line.
        console: where to show the result.
    """
    claim_for_distill(job.folder)
    record = Record(
        job.folder, {"command": job.command, "version": __version__, "git_revision": git_revision()}
    )
    check_values(config)
    keep_freed_memory()
    limit_threads(config.threads)
    spec = typed(PoolSpec, config.pool, "pool")
    descriptor = descriptor_of(config, config.device)
    with ExitStack() as stack:
        # matplotlib takes as long to import as most selectors to choose: it does so meanwhile, elsewhere
        drawn = config.map and descriptor is not None
        artist = stack.enter_context(drawing_process()) if drawn else None
        with console.status(f"reading pool {spec.name}"), warnings.catch_warnings(record=True) as found:
            # every frame of a single file is up for choice: nothing is split off for validation
            pool = load_pool(replace(spec, fractions={}))
        for warning in found:  # of the pool's door: as lines of a train run's start page, not of source
            note = Text.assemble((" ! ", "bold yellow"), str(warning.message))
            console.print(note, highlight=False, soft_wrap=True)
        selector = build(config.selector, "selector")

        def draw(selection: Selection, chart: PoolMap) -> None:
            """While the coverage is computed."""
            if artist is not None:
                method = selection.record["selector"]
                title = f"{spec.name}: {len(selection)} of {len(chart.chosen)} frames by {method}"
                groups = spec.group_label or spec.keys.group or "group"
                chart.save(job.folder / CHART)
                artist.begin(job.folder / CHART, job.folder / MAP, title, groups)

        selection, _ = choose(
            pool.train, selector, descriptor, Choice.of(config), job.folder, console, on_map=draw
        )
        if artist is not None:
            artist.finish()
    _show(pool, selection, job.folder, console)
    record.update(status="finished", finished=now())


def _show(pool: Pool, selection: Selection, folder: Path, console: Console) -> None:
    """What was chosen, what it covers, where it is."""
    record = selection.record
    atoms = f", {record['atoms']} atoms" if len(set(pool.train.num_atoms.tolist())) > 1 else ""
    beside = f", beside {len(record['reference'])} of the reference" if record["reference"] else ""
    console.print(
        f"[bold]{len(selection)} of {len(pool.train)}[/] frames of {pool.name} by "
        f"{record['selector']}{atoms}{beside}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, text in coverage_table(record):
        table.add_row(f"  {escape(name)}", escape(text))
    if table.row_count:
        console.print(table)
    for label, name in (("frames", "selected.extxyz"), ("record", "selection.json"), ("map", MAP)):
        if (folder / name).is_file():
            console.print(f"{label:>8}  {shown_path(folder / name)}", highlight=False, soft_wrap=True)
