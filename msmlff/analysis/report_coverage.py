"""The report's section on what the selection kept and lost of the pool, from the record's "coverage"."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from msmlff.analysis.errors import sort_groups
from msmlff.analysis.figure_style import BLUE, GREY, INK, MOST_GROUPS, ORANGE, FigureBlock, empty_figure
from msmlff.analysis.report_blocks import Section, TableBlock
from msmlff.analysis.run_folder import RunFolder
from msmlff.analysis.tables import figure as number
from msmlff.distill.coverage_table import coverage_table

# In every figure what is chosen is orange, and what is only near it pale.
PALE = "#9CC9E6"
TAILS = {
    "atom_force": ("atoms by force", "atoms"),
    "frame_force": ("frames by force", "frames"),
    "energy_high": ("highest energy", "frames"),
    "energy_low": ("lowest energy", "frames"),
}
FORCES = {"q50": "median", "q95": "95 %", "q99": "99 %", "max": "largest"}


def coverage_section(run: RunFolder, group_name: str) -> Section:
    """Coverage of the selection (``msmlff.distill.coverage``): a short table, figures, distances.

    Records of earlier versions hold less, and then so does the section.
    """
    section = Section("coverage", "Coverage of the selection", short="Coverage")
    record = (run.selection or {}).get("record", {})
    found = record.get("coverage")
    if run.selection is None:
        section.missing.append("No record of the selection (selection.json).")
    elif found is None:
        section.missing.append("The selection used no descriptor, so its coverage is not known.")
    elif not found:
        section.missing.append("All frames have the same features: there is nothing to cover.")
    if not found:
        return section
    section.text = _explanation(record)
    section.lead.append(TableBlock(coverage_table(record)))
    chance = found.get("random", {})
    frames, atoms = _chosen_share(run.selection or {}), _share_of_atoms(found.get("elements", {}))
    figures = [
        _by_group(found.get("groups", {}), chance.get("frames"), group_name),
        _tails(found.get("tails", {}), frames, atoms),
        _by_element(found.get("elements", {}), chance.get("environments")),
        _components(found.get("components", [])),
        _forces(found.get("labels", {}).get("force")),
        _energies(found.get("labels", {}).get("energy_per_atom"), len(found.get("elements", {}))),
    ]
    section.figures += [block for block in figures if block is not None]
    section.tables.append(_distances(found))
    return section


def _explanation(record: Mapping[str, Any]) -> str:
    reference = len(record.get("reference") or ())
    beside = f" or one of the {reference} frames of the reference" if reference else ""
    return (
        f"A frame or an atomic environment is near the selection where a chosen one{beside} lies within a "
        "radius, in which 95 % of the pool's have a neighbour from another frame. Random: as many frames "
        "drawn evenly."
    )


def _chosen_share(selection: Mapping[str, Any]) -> float | None:
    """Share of the pool's frames in the selection and the reference: what an even draw takes of every
    tail."""
    record = selection.get("record", {})
    ids = {*selection.get("ids", ()), *(record.get("reference") or ())}
    return len(ids) / record["n_pool"] if record.get("n_pool") else None


def _share_of_atoms(elements: Mapping[str, Any]) -> float | None:
    pool = sum(element["pool"] for element in elements.values())
    return sum(element["chosen"] for element in elements.values()) / pool if pool else None


def _distances(found: Mapping[str, Any]) -> TableBlock:
    rows = []
    for key, label in (("frames", "frames"), ("environments", "atomic environments")):
        c = found[key]
        distances = (number(c[k]) for k in ("radius", "mean_distance", "max_distance"))
        rows.append((label, f"{100 * c['share']:.1f} %", *distances))
    headings = ("", "near", "radius", "mean distance", "largest distance")
    caption = "Distances to the nearest chosen one, between principal components of standardised features."
    return TableBlock(rows, headings, "Distances", caption)


# --- shares


def _by_group(groups: Mapping[str, Any], chance: float | None, group_name: str) -> FigureBlock | None:
    if len(groups) < 2:
        return None
    names = sort_groups(list(groups))
    caption = "Frames of each group that are chosen, or near a chosen one."
    if len(names) > MOST_GROUPS:
        shown = set(sorted(names, key=lambda name: groups[name]["share"])[:MOST_GROUPS])
        caption += f" {len(names) - MOST_GROUPS} groups that are covered better are left out."
        names = [name for name in names if name in shown]
    figure = empty_figure(group_name, "share of the frames / %")
    _shares(figure, {name: groups[name] for name in names}, chance, "frames")
    return FigureBlock("coverage-groups", f"Coverage by {group_name}", caption, figure, height=300, wide=True)


def _by_element(elements: Mapping[str, Any], chance: float | None) -> FigureBlock | None:
    if len(elements) < 2:
        return None
    figure = empty_figure("element", "share of the atoms / %")
    _shares(figure, elements, chance, "atoms")
    caption = (
        "Atoms of each element that are in chosen frames, or whose environment is near one of those (of a "
        "sample of the pool)."
    )
    return FigureBlock("coverage-elements", "Coverage by element", caption, figure, height=300)


def _shares(figure: go.Figure, rows: Mapping[str, Any], chance: float | None, unit: str) -> None:
    """A bar for each row, orange as far as chosen, pale as far as near; random's share of the whole pool."""
    x = [html.escape(name) or "none" for name in rows]
    counts = [f"{row['chosen']:,} of {row['pool']:,} {unit}" for row in rows.values()]
    chosen = [row["chosen"] / row["pool"] for row in rows.values()]
    for values, name, colour, text in (
        ([row["share"] for row in rows.values()], "near", PALE, "%{x}: %{y:.1f} % near"),
        (chosen, "chosen", ORANGE, "%{x}: %{customdata} chosen"),
    ):
        figure.add_trace(
            go.Bar(
                x=x,
                y=_percent(values),
                name=name,
                marker_color=colour,
                customdata=counts,
                hovertemplate=text + "<extra></extra>",
            )
        )
    if chance is not None:
        line = {"color": INK, "width": 1.5, "dash": "dash"}
        figure.add_hline(y=100 * chance, line=line)
        name = f"random: {100 * chance:.0f} % of the pool near"
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", line=line, name=name))
    figure.update_layout(
        barmode="overlay", bargap=0.25, xaxis={"type": "category"}, yaxis={"range": [0, 103]}
    )


def _tails(tails: Mapping[str, Any], frames: float | None, atoms: float | None) -> FigureBlock | None:
    """frames, atoms: shares that an even draw chooses of any tail."""
    rows = [
        (f"{name}, {part}", tail, atoms if key == "atom_force" else frames, unit)
        for key, (name, unit) in TAILS.items()
        for part, tail in tails.get(key, {}).items()
    ]
    if not rows:
        return None
    figure = empty_figure("share of the tail / %", "")
    y = [name for name, *_ in rows]
    counts = [f"{tail['count']:,} {unit}" for _, tail, _, unit in rows]
    for key, colour in (("near", PALE), ("chosen", ORANGE)):
        figure.add_trace(
            go.Bar(
                x=_percent([tail[key] for _, tail, _, _ in rows]),
                y=y,
                orientation="h",
                name=key,
                marker_color=colour,
                customdata=counts,
                hovertemplate=f"%{{y}} (%{{customdata}})<br>%{{x:.1f}} % {key}<extra></extra>",
            )
        )
    marker = {"symbol": "line-ns", "size": 16, "line": {"color": INK, "width": 2}}
    figure.add_trace(
        go.Scatter(
            x=_percent([chance for _, _, chance, _ in rows]),
            y=y,
            mode="markers",
            marker=marker,
            name="chosen at random",
            hovertemplate="random chooses %{x:.1f} %<extra></extra>",
        )
    )
    figure.update_layout(barmode="overlay", bargap=0.25, xaxis={"range": [0, 103]})
    figure.update_layout(yaxis={"type": "category", "autorange": "reversed"})
    caption = (
        "The 1 % and 5 % largest forces on atoms, frames with the largest force on an atom, and frames of "
        "the highest and lowest energy per atom: the share that is chosen, or near a chosen one."
    )
    return FigureBlock("coverage-tails", "Extremes of the labels", caption, figure, height=340, wide=True)


# --- components and labels


def _components(components: Sequence[Mapping[str, float]]) -> FigureBlock | None:
    if not components:
        return None
    x = [f"{i}<br>{100 * c['explained']:.0f} %" for i, c in enumerate(components, start=1)]
    figure = empty_figure("component, share of the variance", "share kept / %")
    for name, colour in (("range", BLUE), ("bins", PALE)):
        figure.add_trace(
            go.Bar(
                x=x,
                y=_percent([c[name] for c in components]),
                name=name,
                marker_color=colour,
                hovertemplate=f"%{{y:.1f}} % of the {name}<extra></extra>",
            )
        )
    figure.update_layout(barmode="group", bargap=0.25, xaxis={"type": "category"}, yaxis={"range": [0, 103]})
    caption = (
        "Of each leading component of the frames: the pool's range (1 to 99 %) between the selection's "
        "extremes, and the pool's occupied bins (of 20) that the selection occupies."
    )
    return FigureBlock("coverage-components", "Principal components", caption, figure, height=300)


def _forces(force: Mapping[str, Any] | None) -> FigureBlock | None:
    if not force:
        return None
    figure = empty_figure("quantile of the forces on atoms", "force / eV/Å")
    for key, colour in (("pool", GREY), ("selection", ORANGE)):
        figure.add_trace(
            go.Bar(
                x=list(FORCES.values()),
                y=[force[key][q] for q in FORCES],
                name=key,
                marker_color=colour,
                hovertemplate=f"{key}, %{{x}}: %{{y:.3g}} eV/Å<extra></extra>",
            )
        )
    figure.update_layout(barmode="group", bargap=0.25, xaxis={"type": "category"})
    ratios = ", ".join(f"{name} {number(force['ratio'][q])}" for q, name in FORCES.items())
    caption = f"Selection over pool: {ratios}."
    return FigureBlock("coverage-forces", "Forces", caption, figure, height=300)


def _energies(energy: Mapping[str, Any] | None, elements: int) -> FigureBlock | None:
    if not energy:
        return None
    figure = empty_figure("energy / eV/atom", "", showlegend=False)
    for key, colour in (("pool", GREY), ("selection", ORANGE)):
        marker = {
            "symbol": ["line-ns", "circle", "line-ns"],
            "size": [18, 12, 18],
            "color": colour,
            "opacity": 1.0,
        }
        figure.add_trace(
            go.Scatter(
                x=[energy[key][q] for q in ("q05", "q50", "q95")],
                y=[key] * 3,
                mode="lines+markers",
                name=key,
                line={"color": colour, "width": 4},
                marker=marker | {"line": {"color": colour, "width": 3}},
                text=["5 %", "median", "95 %"],
                hovertemplate="%{y}, %{text}: %{x:.4f} eV/atom<extra></extra>",
            )
        )
    figure.update_layout(yaxis={"type": "category", "range": [1.8, -0.8]})
    caption = "5 %, median and 95 % of the frames."
    if energy["span_ratio"] is not None:
        caption += (
            f" From 5 to 95 % the selection spans {100 * energy['span_ratio']:.1f} % of what the pool does."
        )
    if elements > 1:
        caption += " Frames of other composition have other energies."
    return FigureBlock("coverage-energies", "Energies per atom", caption, figure, height=300)


def _percent(shares: Sequence[float | None]) -> list[float | None]:
    return [None if share is None else 100 * share for share in shares]
