"""Tables, panels and the bar for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from msmlff.analysis.run_folder import group_label, model_label

NOTHING = "—"
WIDE = 100  # columns from which panels stand beside each other


def figure(value: float | None, digits: int = 3) -> str:
    """A number to ``digits`` significant figures, with an exponent only if far from 1; "—" for None."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4 or magnitude > 6:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - magnitude)}f}"


def error_table_view(
    table: Mapping[str, Any], title: str = "test errors", group_name: str | None = None, max_groups: int = 30
) -> RenderableType:
    """An error table for the terminal: overall and by group, beside the trivial predictor.

    Args:
        table: from ``msmlff.analysis.errors.error_table`` or test_metrics.json.
        title: of the table of all frames.
        group_name: label that makes the groups (record.json's "group_name"), their heading.
        max_groups: with more groups than this, only that many with the largest force errors are shown.
    """
    overall = table["overall"]
    stress = overall["stress_rmse"] is not None
    parts: list[RenderableType] = [_overall_view(overall, f"{title} · {table['frames']} frames")]
    by_group = dict(table["by_group"])
    if len(by_group) > 1:
        hidden = len(by_group) - max_groups
        if hidden > 0:
            worst = sorted(by_group, key=lambda g: -(by_group[g]["force_rmse"] or 0.0))[:max_groups]
            by_group = {group: by_group[group] for group in by_group if group in worst}
        parts.append(_group_view(by_group, group_label(group_name), stress))
        if hidden > 0:
            parts.append(Text(f"{hidden} groups with smaller force errors are not shown", style="dim"))
    if table["nonfinite_frames"]:
        bad = f"{table['nonfinite_frames']} of {table['frames']} frames have predictions that are not finite"
        parts.append(Text(bad, style="bold red"))
    return Group(*parts)


def _overall_view(overall: Mapping[str, Any], title: str) -> Table:
    view = Table(box=SIMPLE_HEAD, title=Text(title), title_style="bold", title_justify="left")
    view.add_column("")
    for heading in ("MAE", "RMSE", "trivial RMSE", "RMSE / trivial"):
        view.add_column(heading, justify="right")
    view.add_column("unit", style="dim")
    rows = {"energy": "meV/atom", "force": "meV/Å", "stress": "meV/Å³", "pressure": "GPa"}
    for name, unit in rows.items():
        rmse, trivial = overall[f"{name}_rmse"], overall["trivial"][f"{name}_rmse"]
        if rmse is None and trivial is None:
            continue
        share = f"{100 * rmse / trivial:.1f} %" if rmse is not None and trivial else NOTHING
        label = {"energy": "energy", "force": "forces"}.get(name, name)
        view.add_row(
            label, figure(overall[f"{name}_mae"]), f"[bold]{figure(rmse)}[/]", figure(trivial), share, unit
        )
    if overall["force_cosine"] is not None:
        view.caption = f"mean cosine of predicted and true forces {overall['force_cosine']:.4f}"
        view.caption_justify = "left"
    return view


def _group_view(by_group: Mapping[str, Any], group_name: str, stress: bool) -> Table:
    view = Table(
        box=SIMPLE_HEAD,
        title=Text(f"by {group_name}"),
        title_style="bold",
        title_justify="left",
        collapse_padding=True,
        pad_edge=False,
    )
    view.add_column(Text(group_name), justify="right")
    view.add_column("frames", justify="right", style="dim")
    headings = ["E RMSE\nmeV/atom", "trivial", "F RMSE\nmeV/Å", "trivial", "% of RMS"]
    headings += ["S RMSE\nmeV/Å³", "trivial"] if stress else []
    for heading in headings:
        view.add_column(heading, justify="right", style="dim" if heading == "trivial" else "")
    for group, errors in by_group.items():
        trivial = errors["trivial"]
        cells = [errors["energy_rmse"], trivial["energy_rmse"], errors["force_rmse"], trivial["force_rmse"]]
        cells.append(errors["force_rmse_percent"])
        cells += [errors["stress_rmse"], trivial["stress_rmse"]] if stress else []
        view.add_row(Text(group), str(errors["frames"]), *(figure(cell) for cell in cells))
    return view


def step_bar(console: Console) -> Progress:
    """A bar of steps with the time left; the task's field "rate" is shown behind it."""
    return Progress(
        BarColumn(bar_width=None),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}"),
        console=console,
        refresh_per_second=4,
    )


def start_page(record: Mapping[str, Any], notes: Sequence[str] = ()) -> RenderableType:
    """The page shown before training: data, E0s, splits, model, scales, machine.

    Args:
        record: record.json's dictionary (docs/architecture.md) as far as it is known at the start.
        notes: warnings and choices worth a line each (what the door counted, why this backend).
    """
    model, data = record.get("model", {}), record.get("data", {})
    name = model_label(str(model.get("name", "force field")))
    head = Text.assemble((name, "bold"), " on ", (str(data.get("pool", "a pool without a name")), "bold"))
    panels = (
        ("Data", _data_rows(data)),
        ("Model", _model_rows(model)),
        ("Reference energies E0", _e0_rows(data)),
        ("Run", _machine_rows(record)),
    )
    lines = Table.grid(padding=(0, 1))
    for note in notes:
        lines.add_row(Text(" !", style="bold yellow"), Text(note))
    return Group(head, _Panels(panels), lines)


@dataclass(frozen=True)
class _Panels:
    """Titled lists of labels and values: two beside each other where the terminal is wide, else stacked."""

    contents: Sequence[tuple[str, Sequence[tuple[str, str]]]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < WIDE:
            yield from (_panel(title, _pairs(rows)) for title, rows in self.contents)
            return
        width = options.max_width // 2
        for left, right in zip(self.contents[::2], self.contents[1::2], strict=True):
            grids = [_pairs(rows) for _, rows in (left, right)]
            inside = options.update_width(width - 4)
            height = 2 + max(len(console.render_lines(grid, inside)) for grid in grids)
            row = Table.grid()
            row.add_row(
                *(_panel(t, g, width, height) for (t, _), g in zip((left, right), grids, strict=True))
            )
            yield row


def _pairs(rows: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, Text(value))
    return grid


def _panel(title: str, content: Table, width: int | None = None, height: int | None = None) -> Panel:
    return Panel(
        content, title=title, title_align="left", box=ROUNDED, border_style="blue", width=width, height=height
    )


def _data_rows(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    n_pool, n_train = data.get("n_pool"), data.get("n_train")
    share = f" ({100 * n_train / n_pool:.0f} % of the pool)" if n_pool and n_train else ""
    rows = [
        ("pool", f"{n_pool if n_pool is not None else NOTHING} frames"),
        ("training", f"{n_train if n_train is not None else NOTHING} frames{share}"),
        ("validation", f"{data.get('n_val', NOTHING)} frames"),
        ("test", f"{data.get('n_test', NOTHING)} frames"),
        ("elements", " ".join(data.get("species", ())) or NOTHING),
    ]
    if data.get("label"):
        rows.append(("labels", str(data["label"])))
    if data.get("group_name"):
        rows.append(("groups by", group_label(data["group_name"])))
    if data.get("pool_hash"):
        rows.append(("content hash", str(data["pool_hash"])[:16]))
    return rows


def _e0_rows(data: Mapping[str, Any], most: int = 8) -> list[tuple[str, str]]:
    e0s = data.get("e0s", {})
    rows = [(symbol, f"{energy:.6f} eV") for symbol, energy in list(e0s.items())[:most]]
    if len(e0s) > most:
        rows.append(("", f"and {len(e0s) - most} more in record.json"))
    rows.append(("from", str(data.get("e0_source", NOTHING))))
    residual = data.get("e0_residual_rmse")
    if residual is not None and math.isfinite(residual):
        rows.append(("residual RMSE", f"{figure(1e3 * residual)} meV/atom"))
    return rows


def _model_rows(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("parameters", f"{model['parameters']:,}" if "parameters" in model else NOTHING)]
    for scale in model.get("scales", ()):
        size = scale.get("functions") or f"{scale['channels']} channels, l ≤ {scale['l_max']}"
        rows.append((f"below {scale['cutoff']:g} Å", size))
        if scale.get("neighbors") is not None:
            rows.append(("", f"{figure(scale['neighbors'])} neighbours per atom"))
    return rows


def _machine_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [(key, str(record[key])) for key in ("device", "backend") if record.get(key)]
    if "torch" in record.get("versions", {}):
        rows.append(("torch", str(record["versions"]["torch"])))
    revision = str(record.get("git_revision") or "")[:12]
    rows.append(("msmlff", " ".join(x for x in (str(record.get("version", "")), revision) if x) or NOTHING))
    return rows
