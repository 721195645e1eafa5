"""What the sections of the report are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from msmlff.analysis.figure_style import FigureBlock
from msmlff.analysis.viewer import ViewerBlock


@dataclass(frozen=True)
class TableBlock:
    """A table; without headings its first column names what the second one holds."""

    rows: Sequence[Sequence[str]]
    headings: Sequence[str] = ()
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Tile:
    """A key number of the headline."""

    label: str
    value: str
    unit: str
    note: str


@dataclass
class Section:
    """A part of the report: tables before and after its figures and viewers of structures; ``missing`` says
    why some are not there, ``short`` is its title in the list of sections."""

    name: str
    title: str
    figures: list[FigureBlock] = field(default_factory=list)
    viewers: list[ViewerBlock] = field(default_factory=list)
    lead: list[TableBlock] = field(default_factory=list)
    tables: list[TableBlock] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    text: str = ""
    short: str = ""
