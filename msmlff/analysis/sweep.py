"""One table of many runs: what was asked for, how it ended, the test errors, and their spread over seeds."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from msmlff.analysis.run_folder import read_run
from msmlff.analysis.tables import NOTHING, figure

# column of the table -> (heading, key in the overall part of the error table)
ERRORS = {
    "energy_rmse_mev_atom": ("E RMSE\nmeV/atom", "energy_rmse"),
    "force_rmse_mev_a": ("F RMSE\nmeV/Å", "force_rmse"),
    "force_rmse_percent": ("F RMSE\n%", "force_rmse_percent"),
    "stress_rmse_mev_a3": ("S RMSE\nmeV/Å³", "stress_rmse"),
}


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        folder: its run folder.
        overrides: record.json's "overrides" (else the key=value arguments of its command), without the seed.
        seed: the value of ``seed=``, "" where none was given.
        status: record.json's: "finished", "running", "interrupted", "diverged"; "failed" also without one.
        errors: column of ERRORS -> value; empty where the run was not tested.
        minutes: total wall time, NaN where it is not known.
    """

    folder: Path
    overrides: tuple[str, ...]
    seed: str
    status: str
    errors: dict[str, float]
    minutes: float


@dataclass(frozen=True)
class SweepTable:
    """The table in every form.

    Attributes:
        jobs: one entry a run folder, in the order given.
        view: for the terminal.
        markdown: a table a job, and one of means and standard deviations where seeds repeat.
        csv: one line a job, with a header.
    """

    jobs: tuple[Job, ...]
    view: RenderableType
    markdown: str
    csv: str


def sweep_table(run_dirs: Sequence[str | Path]) -> SweepTable:
    """Collect run folders into one table; a run that failed has its row and says so.

    Runs that differ in nothing but their seed are averaged: mean and sample standard deviation over those
    that finished, and how many did not.

    Raises:
        InputError: a folder that does not exist.
    """
    jobs = tuple(_read_job(Path(folder)) for folder in run_dirs)
    common = _common_overrides(jobs)
    columns = [c for c in ERRORS if any(c in job.errors for job in jobs)]
    headings = ["job", "seed", "status", *(ERRORS[c][0] for c in columns), "minutes"]
    cells = []
    for job in jobs:
        errors = [figure(job.errors.get(c)) for c in columns]
        cells.append([_name(job, common), job.seed or NOTHING, job.status, *errors, _minutes(job)])
    means = _mean_rows(jobs, columns, common)
    mean_headings = ["settings", "runs", *(ERRORS[c][0] for c in columns)]
    parts: list[RenderableType] = [_rich_table("Runs", headings, cells, left=3)]
    text = _markdown(headings, cells)
    if means:
        parts.append(_rich_table("Mean ± standard deviation over seeds", mean_headings, means, left=1))
        text += "\n" + _markdown(mean_headings, means)
    if common:
        parts.append(Text("all runs: " + shlex.join(common), style="dim"))
        text += f"\nAll runs: `{shlex.join(common)}`\n"
    return SweepTable(jobs, Group(*parts), text, _csv(jobs))


def _read_job(folder: Path) -> Job:
    run = read_run(folder)
    overrides = run.record.get("overrides")
    if not isinstance(overrides, list):
        overrides = _overrides(str(run.record.get("command") or ""))
    seeds = [o.removeprefix("seed=") for o in overrides if o.startswith("seed=")]
    overall = (run.errors or {}).get("overall", {})
    errors = {c: overall[key] for c, (_, key) in ERRORS.items() if overall.get(key) is not None}
    seconds = run.record.get("seconds_total")
    return Job(
        folder=folder,
        overrides=tuple(o for o in overrides if not o.startswith("seed=")),
        seed=seeds[-1] if seeds else "",
        status=str(run.record.get("status") or "failed"),
        errors=errors,
        minutes=seconds / 60 if seconds is not None else float("nan"),
    )


def _overrides(command: str) -> list[str]:
    """The key=value arguments of a command line."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return [word for word in words if "=" in word and not word.startswith("-")]


def _common_overrides(jobs: Sequence[Job]) -> tuple[str, ...]:
    """Overrides of every job, where there is more than one: they need not be repeated in each row."""
    known = [job for job in jobs if job.overrides]
    if len(known) < 2:
        return ()
    return tuple(o for o in known[0].overrides if all(o in job.overrides for job in known))


def _name(job: Job, common: Iterable[str]) -> str:
    own = [o for o in job.overrides if o not in set(common)]
    if own:
        return " ".join(own)
    return "(as all)" if job.overrides else job.folder.name


def _minutes(job: Job) -> str:
    return f"{job.minutes:.1f}" if np.isfinite(job.minutes) else NOTHING


def _mean_rows(jobs: Sequence[Job], columns: Sequence[str], common: Sequence[str]) -> list[list[str]]:
    """A row for each set of settings that was run more than once."""
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        if job.overrides or job.seed:
            groups.setdefault(tuple(sorted(job.overrides)), []).append(job)
    rows = []
    for members in groups.values():
        if len(members) < 2:
            continue
        finished = [job for job in members if job.status == "finished"]
        count = str(len(finished))
        if len(finished) < len(members):
            count += f" of {len(members)}, {len(members) - len(finished)} did not finish"
        cells = [_mean_and_spread([job.errors[c] for job in finished if c in job.errors]) for c in columns]
        rows.append([_name(members[0], common), count, *cells])
    return rows


def _mean_and_spread(values: Sequence[float]) -> str:
    if not values:
        return NOTHING
    if len(values) == 1:
        return figure(values[0])
    return f"{figure(float(np.mean(values)))} ± {figure(float(np.std(values, ddof=1)), 2)}"


def _rich_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> Table:
    table = Table(box=SIMPLE_HEAD, title=title, title_style="bold", title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        bad = any(cell in ("failed", "diverged") for cell in row)
        table.add_row(*(Text(cell) for cell in row), style="red" if bad else "")
    return table


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = []
    for cells in (headings, ["---"] * len(headings), *rows):
        clean = (cell.replace("\n", " ").replace("|", "\\|") for cell in cells)
        lines.append("| " + " | ".join(clean) + " |\n")
    return "".join(lines)


def _csv(jobs: Sequence[Job]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["folder", "overrides", "seed", "status", *ERRORS, "minutes"])
    for job in jobs:
        values: list[Any] = [job.errors.get(c, "") for c in ERRORS]
        minutes = job.minutes if np.isfinite(job.minutes) else ""
        writer.writerow([job.folder, shlex.join(job.overrides), job.seed, job.status, *values, minutes])
    return out.getvalue()
