"""What the observables look like: the section of a report, and a page of their own."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from msmlff.analysis.curve import Curve
from msmlff.analysis.figure_style import BLUE, GREEN, GREY, INK, ORANGE, FigureBlock, empty_figure, small
from msmlff.analysis.observables_folder import ObservablesFolder, load_observables
from msmlff.analysis.observed import Observed, Quantity
from msmlff.analysis.page import write_page
from msmlff.analysis.report_blocks import Section, TableBlock, Tile
from msmlff.analysis.tables import NOTHING
from msmlff.analysis.tables import figure as number
from msmlff.analysis.viewer import Scene, ViewerBlock, can_show
from msmlff.errors import InputError

PAGE = "observables.html"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", INK)  # Okabe and Ito's
MOST_POINTS = 1500  # of a curve in a picture

TITLES = {
    "rdf": "Radial distribution function",
    "adf": "Angles between bonds",
    "coordination": "Coordination",
    "order": "Bond-orientational order",
    "density": "Density",
    "molecular_fraction": "Molecular fraction",
    "temperature": "Temperature",
    "pressure": "Pressure",
    "msd": "Mean squared displacement",
    "diffusion": "Diffusion",
    "vacf": "Velocity autocorrelation",
    "vdos": "Vibrational density of states",
    "drift": "Total energy",
    "equation_of_state": "Equation of state",
    "stability": "Stability",
}
# observable, its quantity, title of the tile
HEADLINE = (
    ("temperature", "temperature", "Temperature"),
    ("pressure", "pressure", "Pressure"),
    ("density", "density", "Density"),
    ("molecular_fraction", "molecular fraction", "Molecular fraction"),
    ("equation_of_state", "bulk modulus", "Bulk modulus"),
)
ERROR_NAMES = {
    "rdf_error": ("radial distribution function", "%"),
    "adf_error": ("angles between bonds", "%"),
    "vdos_error": ("vibrational density of states", "%"),
    "pressure_error": ("pressures of the potential: histograms that do not overlap", "%"),
    "pressure_mae": ("pressures of the potential: difference of the means", "GPa"),
    "pressure_wasserstein": ("pressures of the potential: Wasserstein distance", "GPa"),
}


def observables_section(folder: Path) -> Section | None:
    """The observables in a run folder as a section of its report; None where there are none."""
    section = Section("observables", "Observables")
    try:
        content = load_observables(folder)
    except InputError as error:
        section.missing.append(str(error))
        return section
    return None if content is None else fill_section(section, content)


def write_observables_page(folder: Path, command: str) -> Path:
    """Write observables.html into a folder with the files of ``save_observables``.

    Args:
        command: the line that made them.

    Raises:
        InputError: there are none.
    """
    content = load_observables(folder)
    if content is None:
        raise InputError(f"{folder}: no observables.json here; evaluate a trajectory first")
    about = content.about
    title = f"{about['formula']} · {about['frames']} frames of {about['atoms']} atoms"
    section = fill_section(Section("observables", "Observables"), content)
    section.text = ""  # it stands above
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    words = {"title": title, "summary": _words(content), "command": command}
    numbers = tiles(content)
    return write_page(folder / PAGE, "observables.html.j2", [section], files=files, tiles=numbers, **words)


def fill_section(section: Section, content: ObservablesFolder) -> Section:
    """Put numbers, pictures and structures into a section."""
    section.text = _words(content)
    if content.errors:
        section.lead.append(_errors(content))
    notes = [f"{title}: {note}" for title, own in notes_of(content).items() for note in own]
    for name, observed in content.found.items():
        other = content.reference.get(name, Observed())
        if observed.curves:
            section.figures.append(curves_figure(name, observed, other))
    section.tables.append(_quantities(content))
    if notes:
        section.tables.append(TableBlock([(note,) for note in notes], ("Notes",)))
    if content.missing:
        rows = [(title_of(name), reason) for name, reason in content.missing.items()]
        section.tables.append(TableBlock(rows, title="Not to be had, and why"))
    scenes = [Scene(str(f.info.get("label", "")), f) for f in content.structures if can_show(f)]
    if scenes:
        caption = "Drag to turn, scroll to come nearer, point at an atom for its element and number."
        section.viewers.append(ViewerBlock("structures", "First and last frame", caption, scenes))
    return section


def _words(content: ObservablesFolder) -> str:
    about = content.about
    replicas = about.get("replicas", [about["frames"]])
    several = f"Mean over {len(replicas)} replicas, " if len(replicas) > 1 else ""
    text = f"{about['frames']} frames of {about['atoms']} atoms ({about['formula']}) of {about['source']}"
    text = several + text
    if about["interval_fs"]:
        span = sum(frames - 1 for frames in replicas) * about["interval_fs"]
        text += f", {number(about['interval_fs'])} fs apart, {number(span / 1e3)} ps in all"
    if content.about_reference:
        other = content.about_reference
        text += f"; dashed: the reference, {other['frames']} frames of {other['source']}"
    source = "over replicas" if several else "from blocks of the trajectory"
    compared = compared_words(content)
    return f"{text}. Shaded: standard errors {source}." + (f" {compared}" if compared else "")


def notes_of(content: ObservablesFolder) -> dict[str, list[str]]:
    """What is to be said of each observable by its title; of the reference's what is not said already."""
    notes: dict[str, list[str]] = {}
    for name, observed in content.found.items():
        theirs = content.reference.get(name, Observed()).notes
        own = [*observed.notes, *(f"The reference: {n}" for n in theirs if n not in observed.notes)]
        if own:
            notes[title_of(name)] = own
    return notes


def compared_words(content: ObservablesFolder) -> str:
    """Over what times the trajectory and the reference are compared; "" where that need not be said.

    Numbers and curves are those of each as a whole, errors against the reference those of a common time.
    """
    about, other = content.about, content.about_reference
    if not other or not about["interval_fs"] or not other["interval_fs"]:
        return ""
    spans = [(n - 1) * about["interval_fs"] for n in about.get("replicas", [about["frames"]])]
    theirs = (other["frames"] - 1) * other["interval_fs"]
    alike = all(math.isclose(span, theirs, rel_tol=1e-6) for span in spans)
    if alike and math.isclose(about["interval_fs"], other["interval_fs"], rel_tol=1e-6):
        return ""
    whose = "a replica" if len(spans) > 1 else "the trajectory"
    text = (
        f"Numbers and curves are those of the whole of each: {_range(spans)} of {whose}, a frame "
        f"every {number(about['interval_fs'])} fs; {_range([theirs])} of the reference, a frame every "
        f"{number(other['interval_fs'])} fs"
    )
    if content.errors and other.get("compared_fs"):
        text += f". Errors against the reference: the first {_range(other['compared_fs'])} of both"
    return text + "."


def _range(spans: Sequence[float]) -> str:
    """Times in fs as "10 ps", or "2.9 to 10 ps"."""
    low, high = number(min(spans) / 1e3), number(max(spans) / 1e3)
    return f"{high} ps" if low == high else f"{low} to {high} ps"


def title_of(name: str) -> str:
    """The heading of an observable."""
    return TITLES.get(name, name.replace("_", " "))


def _quantities(content: ObservablesFolder) -> TableBlock:
    rows: list[tuple[str, ...]] = []
    replicas = has_replicas(content.found)
    for title, label, value, scatter, theirs, unit in summary_rows(content.found, content.reference):
        name = label if label.lower().startswith(title.lower()) else f"{title}: {label}"
        more = [scatter] * replicas + [theirs] * bool(content.reference)
        rows.append((name, value, *more, unit))
    more = ["± over replicas"] * replicas + ["reference"] * bool(content.reference)
    headings = ("", "value", *more, "unit")
    return TableBlock(rows, headings, title="Numbers")


def tiles(content: ObservablesFolder) -> list[Tile]:
    """The numbers of the headline, as far as there are any."""
    found = []
    for name, label, title in HEADLINE:
        quantity = content.found.get(name, Observed()).quantities.get(label)
        if quantity is None:
            continue
        theirs = content.reference.get(name, Observed()).quantities.get(label)
        note = f"reference {with_error(theirs)}" if theirs is not None else ""
        if math.isfinite(quantity.over_replicas):
            quantity = replace(quantity, error=quantity.over_replicas)
        found.append(Tile(title, with_error(quantity), quantity.unit, note))
    return found


def with_error(quantity: Quantity) -> str:
    """A value and its standard error to two digits: "2.013 ± 0.021"; without the error to 4 digits."""
    if not math.isfinite(quantity.value):
        return NOTHING
    if not (math.isfinite(quantity.error) and quantity.error > 0):
        return number(quantity.value, 4)
    digits = max(0, 1 - math.floor(math.log10(quantity.error)))
    if digits > 8 or abs(quantity.value) >= 1e7:
        return f"{quantity.value:.4g} ± {quantity.error:.1e}"
    return f"{quantity.value:.{digits}f} ± {quantity.error:.{digits}f}"


def _errors(content: ObservablesFolder) -> TableBlock:
    rows = [
        (label, number(content.errors[name]), unit)
        for name, (label, unit) in ERROR_NAMES.items()
        if name in content.errors
    ]
    caption = "As matbench-discovery defines them: 0 % is a perfect match, 100 % no better than no structure."
    return TableBlock(rows, ("", "error", "unit"), "Against the reference", caption)


def curves_figure(name: str, observed: Observed, reference: Observed) -> FigureBlock:
    """The curves of an observable in one picture, those of the reference dashed."""
    titles = next(iter(observed.curves.values()))
    figure = empty_figure(titles.x_title, titles.y_title)
    if name == "rdf":
        figure.add_hline(y=1.0, line={"color": GREY, "width": 1, "dash": "dot"})
    several = len(observed.curves) > 1
    figure.update_layout(showlegend=several)
    for i, (label, named) in enumerate(observed.curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        points = name == "equation_of_state" and label == "frames"
        _band(figure, named.curve, colour)
        _line(figure, named.curve, label, colour, "markers" if points else "lines")
        if label in reference.curves:
            other = reference.curves[label].curve
            _line(figure, other, f"{label}, reference", colour, "lines", dash="dash")
            figure.data[-1].showlegend = False
        for mark in named.marks:
            figure.add_vline(x=mark, line={"color": colour, "width": 1, "dash": "dot"})
    _axes(figure, name, observed)
    caption = (
        "" if not any(c.marks for c in observed.curves.values()) else "Dotted: the ends of first shells."
    )
    return FigureBlock(f"observable-{name}", title_of(name), caption, figure)


def _axes(figure: go.Figure, name: str, observed: Observed) -> None:
    curves = [named.curve for named in observed.curves.values()]
    if name in ("rdf", "adf", "vdos", "msd", "coordination", "order"):
        figure.update_layout(yaxis={"rangemode": "tozero"})
    if name == "coordination":
        # as far as twice the largest first shell: beyond, everything grows with r³
        marks = [mark for named in observed.curves.values() for mark in named.marks]
        reach = min(2.0 * max(marks), curves[0].x[-1]) if marks else curves[0].x[-1]
        top = max(float(c.y[c.x <= reach].max(initial=1.0)) for c in curves)
        figure.update_layout(xaxis={"range": [0, float(reach)]}, yaxis={"range": [0, 1.05 * top]})
    if name == "vdos":
        whole = curves[0]
        share = np.cumsum(whole.y) / max(float(whole.y.sum()), 1e-300)
        end = float(whole.x[min(int(np.searchsorted(share, 0.999)), len(whole.x) - 1)])
        figure.update_layout(xaxis={"range": [0, 1.1 * end]})
    if name == "adf":
        figure.update_layout(xaxis={"range": [0, 180], "dtick": 30})


def _thinned(curve: Curve) -> Curve:
    step = max(1, math.ceil(len(curve.x) / MOST_POINTS))
    return replace(curve, x=curve.x[::step], y=curve.y[::step], error=curve.error[::step])


def _line(
    figure: go.Figure, curve: Curve, label: str, colour: str, mode: str, dash: str | None = None
) -> None:
    shown = _thinned(curve)
    style: dict[str, Any] = {"line": {"color": colour, "width": 1.8, "dash": dash}}
    if mode == "markers":
        style = {"marker": {"color": colour, "size": 6}}
    figure.add_trace(
        go.Scatter(x=small(shown.x), y=small(shown.y), mode=mode, name=html.escape(label), **style)
    )


def _band(figure: go.Figure, curve: Curve, colour: str) -> None:
    """One standard error to either side, where it is known."""
    shown = _thinned(curve)
    known = np.isfinite(shown.error)
    if not known.any() or not (shown.error[known] > 0).any():
        return
    x, y, error = shown.x[known], shown.y[known], shown.error[known]
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    figure.add_trace(
        go.Scatter(
            x=small(np.concatenate([x, x[::-1]])),
            y=small(np.concatenate([y + error, (y - error)[::-1]])),
            fill="toself", fillcolor=f"rgba({red},{green},{blue},0.18)", line={"width": 0}, mode="lines",
            hoverinfo="skip", showlegend=False,
        )
    )  # fmt: skip


def has_replicas(found: Mapping[str, Observed]) -> bool:
    """Whether there are errors over replicas."""
    return any(math.isfinite(q.over_replicas) for o in found.values() for q in o.quantities.values())


def summary_rows(found: Mapping[str, Observed], reference: Mapping[str, Observed]) -> list[tuple[str, ...]]:
    """(observable, quantity, value, its error over replicas, reference's, unit) of every number."""
    rows: list[tuple[str, ...]] = []
    for name, observed in found.items():
        other = reference.get(name, Observed()).quantities
        for label, quantity in observed.quantities.items():
            theirs = with_error(other[label]) if label in other else NOTHING
            scatter = ""
            if math.isfinite(quantity.over_replicas):
                scatter = f"± {number(quantity.over_replicas, 2)}"
            rows.append((title_of(name), label, with_error(quantity), scatter, theirs, quantity.unit))
    return rows
