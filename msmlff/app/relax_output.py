"""What msmlff relax shows and writes: tables, frames, the picture of phonons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress
from rich.markup import escape
from rich.table import Table

from msmlff.data.configuration import Configuration
from msmlff.data.formats import write_frames

if TYPE_CHECKING:
    from msmlff.simulation.crystals import Crystal
    from msmlff.simulation.elastic import Elastic
    from msmlff.simulation.files import GrowingFile
    from msmlff.simulation.phonons import Phonons
    from msmlff.simulation.relax import Relaxation

FRAMES = "relaxed.extxyz"
#: What a relaxation may leave in its folder, beside the record.
FILES = (FRAMES, "crystals.json", "properties.json", "phonons.png")
MOST_ROWS, MOST_PANELS = 30, 9


@dataclass(frozen=True)
class Relaxed:
    """What became of a frame.

    Attributes:
        index: of the frame in its file.
        frame: as it was.
        relaxation: None where it failed.
        message: why it failed.
    """

    index: int
    frame: Configuration
    relaxation: Relaxation | None
    message: str = ""


def to_frame(relaxed: Relaxed) -> Configuration:
    """The relaxed frame with its labels; its info says how it went, and a committee's deviation."""
    relaxation = relaxed.relaxation
    assert relaxation is not None
    atoms, results = relaxation.atoms, relaxation.results
    stress = results.get("stress")
    deviations = {k: results[k] for k in ("energy_std", "forces_std_max") if k in results}
    info = {
        **relaxed.frame.info,
        "frame": relaxed.index,
        "converged": relaxation.converged,
        "steps": relaxation.steps,
        "start_energy": relaxation.start_energy,
        **({"energy_rose": True} if relaxation.rose else {}),
        **({} if np.isnan(relaxation.pushed) else {"overlap": relaxation.pushed}),
    }
    return Configuration(
        numbers=relaxed.frame.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        energy=relaxation.energy,
        forces=results["forces"],
        stress=None if stress is None else voigt_6_to_full_3x3_stress(stress),
        group=relaxed.frame.group,
        info=info | deviations,
    )


def save_frame(relaxed: Relaxed, file: GrowingFile) -> None:
    """Append a relaxed frame to a file, whole or not at all.

    Raises:
        OSError, OutputError: it cannot be written.
    """
    part = file.path.with_name(f".{FRAMES}")
    try:
        write_frames(part, [to_frame(relaxed)])
        file.append(part.read_bytes())
    finally:
        part.unlink(missing_ok=True)


def frame_table(done: Sequence[Relaxed]) -> Table:
    """A row a frame, the first ``MOST_ROWS`` of them; below, how many came to rest, and how many failed."""
    relaxations = [r.relaxation for r in done if r.relaxation is not None]
    caption = f"{sum(x.converged for x in relaxations)} of {len(done)} frames came to rest"
    for count, what in (
        (len(done) - len(relaxations), "failed"),
        (sum(x.rose for x in relaxations), "ended with more energy than they began with"),
    ):
        caption += f", {count} {what}" if count else ""
    if len(done) > MOST_ROWS:
        caption += f"; the first {MOST_ROWS} are shown"
    table = _table(["frame", "atoms", "steps", "eV/atom", "change", "force", "stress", ""], caption)
    for r in done[:MOST_ROWS]:
        if r.relaxation is None:
            table.add_row(str(r.index), str(len(r.frame)), *[""] * 5, f"[red]{escape(r.message)}[/]")
            continue
        x, atoms = r.relaxation, len(r.frame)
        table.add_row(
            str(r.index), str(atoms), str(x.steps), f"{x.energy / atoms:.6f}",
            f"{(x.energy - x.start_energy) / atoms:+.6f}", f"{x.fmax:.2g} eV/Å",
            "" if np.isnan(x.stress_GPa) else f"{x.stress_GPa:.2g} GPa",
            f"[yellow]{_remarks(x)}[/]",
        )  # fmt: skip
    return table


def _remarks(relaxation: Relaxation) -> str:
    """What is to be known of a relaxation beside its numbers."""
    remarks = {
        "not at rest": not relaxation.converged,
        "energy rose": relaxation.rose,
        f"overlapped ({relaxation.pushed:.2g} Å), pushed apart": not np.isnan(relaxation.pushed),
    }
    return ", ".join(text for text, true in remarks.items() if true)


def crystal_table(element: str, found: Mapping[str, Sequence[Crystal]]) -> Table:
    """Bond length, energy and c/a of each crystal, by the model and by the reference below it."""
    columns = [element, *(["by"] if len(found) > 1 else []), "bond Å", "eV/atom", "c/a", ""]
    table = _table(columns, "bond: nearest neighbours; c/a is relaxed unless the name gives it")
    for rows in zip(*found.values(), strict=True):
        for source, crystal in zip(found, rows, strict=True):
            name = crystal.structure if crystal is rows[0] else ""
            ratio = "" if np.isnan(crystal.ratio) else f"{crystal.ratio:.4f}"
            lower = "" if np.isnan(crystal.lower) else f"[yellow]lower at {crystal.lower:.2f} Å[/]"
            cells = [f"{crystal.bond:.4f}", f"{crystal.energy:.5f}", ratio, lower]
            if crystal.problem:
                cells = ["[yellow]no minimum[/]", "", "", ""]
            table.add_row(name, *([source] if len(found) > 1 else []), *cells)
    return table


def elastic_table(found: Mapping[str, Elastic]) -> Table:
    """A row a structure: the constants that cubic and hexagonal crystals have, and Hill's moduli; GPa."""
    constants = ((0, 0), (2, 2), (0, 1), (0, 2), (3, 3), (5, 5))
    names = [f"C{i + 1}{j + 1}" for i, j in constants]
    caption = "GPa; all 36 constants in properties.json. B, G, E, ν: Hill"
    table = _table(["elastic", *names, "B", "G", "E", "ν", ""], caption)
    for name, elastic in found.items():
        moduli = elastic.moduli()
        cells = [f"{elastic.tensor[i, j]:.1f}" for i, j in constants]
        cells += [f"{moduli[key]:.1f}" for key in ("bulk_hill", "shear_hill", "young")]
        cells += [f"{moduli['poisson']:.3f}", "" if elastic.stable else "[yellow]unstable[/]"]
        table.add_row(escape(name), *cells)
    return table


def phonon_table(found: Mapping[str, Phonons]) -> Table:
    """A row a structure: the ends of its spectrum."""
    table = _table(["phonons", "lowest", "highest", "zero point", "supercell", ""], "THz; eV per cell")
    for name, of in found.items():
        cells = [f"{of.lowest:.2f}", f"{of.frequencies.max():.2f}", f"{of.zero_point:.4f}"]
        cells += ["x".join(map(str, of.supercell)), "" if of.stable else "[yellow]unstable[/]"]
        table.add_row(escape(name), *cells)
    return table


def save_dispersions(found: Mapping[str, Phonons], path: Path) -> None:
    """Draw the branches along the path and the density of states beside them, a row a structure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = dict(list(found.items())[:MOST_PANELS])
    figure = Figure(figsize=(7.2, 2.9 * len(shown)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(len(shown), 2, sharey="row", width_ratios=(4, 1), squeeze=False)
    for (left, right), (name, of) in zip(grid, shown.items(), strict=True):
        for part in _pieces(of.distances):
            left.plot(of.distances[part], of.frequencies[part], color="#1B6CA8", linewidth=1.0)
        left.set_title(name, loc="left", fontsize=10)
        left.set_ylabel("frequency (THz)")
        marks = _marks(of.labels)
        left.set_xticks(list(marks), list(marks.values()))
        left.set_xlim(of.distances[0], of.distances[-1])
        for x in marks:
            left.axvline(x, color="#9AA5B1", linewidth=0.6)
        right.plot(of.density, of.grid, color="#1B6CA8", linewidth=1.0)
        right.set_xlabel("states per THz")
        for axes in (left, right):
            axes.axhline(0.0, color="#9AA5B1", linewidth=0.8)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def _pieces(distances: np.ndarray) -> list[slice]:
    """The parts of a path between which it jumps: two points at one distance."""
    ends = [0, *(np.flatnonzero(np.diff(distances) == 0) + 1).tolist(), len(distances)]
    return [slice(a, b) for a, b in pairwise(ends)]


def _marks(labels: Sequence[tuple[float, str]]) -> dict[float, str]:
    """Names at their distances; where the path jumps, both."""
    marks: dict[float, str] = {}
    for x, label in labels:
        marks[x] = f"{marks[x]}|{_symbol(label)}" if x in marks else _symbol(label)
    return marks


def _symbol(label: str) -> str:
    """Of a special point: G is Γ, digits are indices."""
    letters = label.replace("G", "Γ")
    head = letters.rstrip("0123456789")
    return f"${head}_{{{letters[len(head) :]}}}$" if head != letters else letters


def _table(columns: Sequence[str], caption: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), caption=caption, caption_justify="left")
    for i, column in enumerate(columns):
        left = i == 0 or column in ("", "by")
        table.add_column(escape(column), justify="left" if left else "right")
    return table
