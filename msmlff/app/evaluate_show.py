"""What msmlff evaluate shows in the terminal: the numbers, and below them what is to be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from msmlff.analysis.observables_folder import ObservablesFolder
from msmlff.analysis.observables_page import (
    ERROR_NAMES,
    compared_words,
    has_replicas,
    notes_of,
    summary_rows,
)
from msmlff.analysis.tables import figure as number
from msmlff.app.runtime import shown_path

MOST_NOTES = 8  # of an observable; the page has all
LABEL_WIDTH = 12  # columns that labels keep in a narrow terminal


def show(content: ObservablesFolder, page: Path, numbers: Path, console: Console) -> None:
    """The table, the notes, what is not to be had and why, and where the files are."""
    # labels are folded where the terminal is narrow; numbers never are: the table is then wider than it
    unbounded = console.options.update(width=10_000)
    needed = Measurement.get(console, unbounded, _table(content, LABEL_WIDTH)).maximum
    width, console.width = console.width, max(console.width, needed)
    console.print(_table(content))
    console.width = width
    for title, notes in notes_of(content).items():
        _show_notes(title, notes, console)
    if words := compared_words(content):
        console.print(escape(words), highlight=False, soft_wrap=True)
    for name, reason in content.missing.items():
        console.print(f"[dim]no {escape(name)}: {escape(reason)}[/]", highlight=False, soft_wrap=True)
    for label, path in (("page", page), ("numbers", numbers)):
        console.print(f"{label:>8}  {shown_path(path)}", highlight=False, soft_wrap=True)


def _table(content: ObservablesFolder, label_width: int | None = None) -> Table:
    """A title of each observable in a row of its own, its numbers below; ``label_width`` of the labels."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("observable", overflow="fold", min_width=LABEL_WIDTH, width=label_width)
    table.add_column("value", justify="right", no_wrap=True)
    replicas, reference = has_replicas(content.found), bool(content.reference)
    if replicas:
        table.add_column("± replicas", justify="right", no_wrap=True)
    if reference:
        table.add_column("reference", justify="right", style="dim", no_wrap=True)
    table.add_column("unit", style="dim", no_wrap=True)
    rows = summary_rows(content.found, content.reference)
    for title, group in groupby(rows, key=itemgetter(0)):
        own = list(group)
        headed = not all(row[1].lower().startswith(title.lower()) for row in own)
        if headed:
            table.add_row(Text(title, style="bold"))
        for _, label, value, scatter, theirs, unit in own:
            cells = [value, *([scatter] if replicas else []), *([theirs] if reference else []), unit]
            table.add_row(_label(label) if headed else Text(label, style="bold"), *map(Text, cells))
    if content.errors:
        table.add_row(Text("Against the reference", style="bold"))
    for key, size in content.errors.items():
        label, unit = ERROR_NAMES[key]
        blank = [""] * (replicas + reference)
        table.add_row(_label(label), number(size), *blank, unit)
    return table


def _label(label: str) -> Padding:
    return Padding(Text(label), (0, 0, 0, 1))


def _show_notes(title: str, notes: Sequence[str], console: Console) -> None:
    for note in notes[:MOST_NOTES]:
        console.print(f"[bold]{escape(title)}:[/] {escape(note)}", highlight=False, soft_wrap=True)
    if len(notes) > MOST_NOTES:
        more = f"{len(notes) - MOST_NOTES} more notes on the page"
        console.print(f"[bold]{escape(title)}:[/] [dim]{more}[/]", highlight=False, soft_wrap=True)
