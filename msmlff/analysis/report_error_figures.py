"""The report's figures of the errors: parity, distributions, slices."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from msmlff.analysis.errors import Predictions, parity_pairs
from msmlff.analysis.figure_style import (
    BLUE,
    COLOUR_SCALE,
    GREY,
    MOST_GROUPS,
    MOST_PARITY_POINTS,
    ORANGE,
    FigureBlock,
    as_numbers,
    bar_above,
    empty_figure,
    log_axis,
    small,
    thin,
)
from msmlff.analysis.tables import figure as number

# --- parity and error distributions


def parity_figures(p: Predictions, group_name: str) -> list[FigureBlock]:
    """Predicted against labelled energies per atom (E0s taken off), force components and pressures."""
    group = p.group.astype(str)
    names = [
        f"frame {i}" + (f" · {html.escape(g)}" if g else "") for i, g in zip(p.frame_id, group, strict=True)
    ]
    level = as_numbers(group.tolist())
    frames = _FramePoints(names, level, group_name)
    pairs = parity_pairs(p)
    blocks = []
    if (figure := frames.parity(*pairs["energy"], "energy", "eV/atom")) is not None:
        caption = "A point a frame; energy per atom less the E0s."
        blocks.append(FigureBlock("parity-energy", "Energy", caption, figure, height=400))
    if (block := _force_parity(*pairs["force"])) is not None:
        blocks.append(block)
    if (figure := frames.parity(*pairs["pressure"], "pressure", "GPa")) is not None:
        caption = "A point a frame; pressure of the stress, without the ideal-gas term."
        blocks.append(FigureBlock("parity-pressure", "Pressure", caption, figure, height=400))
    return blocks


@dataclass(frozen=True)
class _FramePoints:
    """What the parity plots of frames share: names for the hover text, the group as a colour."""

    names: list[str]
    level: np.ndarray | None
    group_name: str

    def parity(self, label: np.ndarray, predicted: np.ndarray, what: str, unit: str) -> go.Figure | None:
        """None where there is nothing to compare."""
        good = np.isfinite(label) & np.isfinite(predicted)
        if not good.any():
            return None
        figure = _parity_base(label[good], predicted[good], what, unit)
        kept = np.flatnonzero(good)[thin(label[good], predicted[good], MOST_PARITY_POINTS)[0]]
        marker: dict[str, Any] = {"size": 6, "color": BLUE, "opacity": 0.8}
        if self.level is not None:
            marker |= {"color": small(self.level[kept]), "colorscale": COLOUR_SCALE, "showscale": True}
            marker["colorbar"] = bar_above(self.group_name)
        text = [
            f"{self.names[i]}<br>label {label[i]:.4f} {unit}<br>model {predicted[i]:.4f} {unit}" for i in kept
        ]
        x, y = small(label[kept]), small(predicted[kept])
        figure.add_trace(go.Scatter(x=x, y=y, mode="markers", marker=marker, text=text, hoverinfo="text"))
        return figure


def _parity_base(label: np.ndarray, predicted: np.ndarray, what: str, unit: str) -> go.Figure:
    low, high = min(label.min(), predicted.min()), max(label.max(), predicted.max())
    pad = 0.04 * ((high - low) or 1.0)
    ends = [float(low - pad), float(high + pad)]
    figure = empty_figure(f"label: {what} / {unit}", f"model: {what} / {unit}", showlegend=False)
    figure.update_layout(xaxis={"range": ends}, yaxis={"range": ends})
    line = {"color": GREY, "width": 1}
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip"))
    rmse = float(np.sqrt(np.square(predicted - label).mean()))
    shown = (1e3 * rmse, "m" + unit) if unit.startswith("eV") else (rmse, unit)
    words = f"RMSE {number(shown[0])} {html.escape(shown[1])}"
    place = {"xref": "paper", "yref": "paper", "x": 0.03, "y": 0.97, "xanchor": "left", "yanchor": "top"}
    figure.add_annotation(text=words, showarrow=False, bgcolor="rgba(255,255,255,0.8)", **place)
    return figure


def _force_parity(label: np.ndarray, predicted: np.ndarray) -> FigureBlock | None:
    good = np.isfinite(label) & np.isfinite(predicted)
    if not good.any():
        return None
    label, predicted = label[good], predicted[good]
    kept, crowd = thin(label, predicted, MOST_PARITY_POINTS)
    order = np.argsort(crowd, kind="stable")
    kept, crowd = kept[order], crowd[order]
    figure = _parity_base(label, predicted, "force component", "eV/Å")
    ticks = np.arange(0, math.ceil(math.log10(crowd.max())) + 1)
    bar = bar_above("components in the cell")
    bar |= {"tickvals": ticks.tolist(), "ticktext": [f"{10**t:,}" for t in ticks.tolist()]}
    marker = {
        "size": 4,
        "color": small(np.log10(crowd)),
        "colorscale": COLOUR_SCALE,
        "showscale": True,
        "colorbar": bar,
    }
    figure.add_trace(
        go.Scatter(
            x=small(label[kept]),
            y=small(predicted[kept]),
            mode="markers",
            marker=marker,
            hovertemplate="label %{x:.3f}<br>model %{y:.3f} eV/Å<extra></extra>",
        )
    )
    caption = (
        f"{len(kept):,} of {len(label):,} components, thinned where they crowd; colour: how many there are."
    )
    return FigureBlock("parity-forces", "Forces", caption, figure, height=400)


def error_histograms(p: Predictions) -> list[FigureBlock]:
    """Distribution of the errors of energies per atom, force components and pressures."""
    blocks = []
    units = {"energy": (1e3, "meV/atom"), "force": (1e3, "meV/Å"), "pressure": (1.0, "GPa")}
    for name, (label, predicted) in parity_pairs(p).items():
        factor, unit = units[name]
        errors = factor * (predicted - label)
        errors = errors[np.isfinite(errors)]
        if not len(errors):
            continue
        reach = float(np.abs(errors).max()) or 1.0
        counts, edges = np.histogram(
            errors, bins=min(81, 2 * round(math.sqrt(len(errors))) + 1), range=(-reach, reach)
        )
        figure = empty_figure(f"model − label / {unit}", "count", showlegend=False, bargap=0.03)
        middle = 0.5 * (edges[1:] + edges[:-1])
        figure.add_trace(
            go.Bar(
                x=small(middle),
                y=counts,
                marker_color=BLUE,
                hovertemplate="%{x:.3g} " + unit + ": %{y}<extra></extra>",
            )
        )
        figure.add_vline(x=float(errors.mean()), line={"color": ORANGE, "width": 1.5, "dash": "dash"})
        if name == "force":
            figure.update_layout(yaxis={"type": "log", "dtick": 1, "exponentformat": "power"})
        spread = (
            f"mean {number(float(errors.mean()))}, standard deviation {number(float(errors.std()))} {unit}"
        )
        blocks.append(
            FigureBlock(
                f"histogram-{name}", f"{name.capitalize()} error", f"Dashed: {spread}.", figure, height=280
            )
        )
    return blocks


# --- slices


def errors_by_group(table: Mapping[str, Any], group_name: str) -> list[FigureBlock]:
    """RMSE of each target by group, beside the trivial predictor; the worst groups where there are many."""
    by_group = dict(table["by_group"])
    left_out = len(by_group) - MOST_GROUPS
    if left_out > 0:
        worst = sorted(by_group, key=lambda g: -(by_group[g]["force_rmse"] or 0.0))[:MOST_GROUPS]
        by_group = {group: by_group[group] for group in by_group if group in worst}
    x: Any = as_numbers(list(by_group))
    connect = x is not None
    if x is None:
        x = [html.escape(group) for group in by_group]
    blocks = []
    for name, unit in (("energy", "meV/atom"), ("force", "meV/Å"), ("stress", "meV/Å³")):
        model = [errors[f"{name}_rmse"] for errors in by_group.values()]
        trivial = [errors["trivial"][f"{name}_rmse"] for errors in by_group.values()]
        if all(value is None for value in model):
            continue
        figure = empty_figure(group_name, f"{name} RMSE / {unit}")
        _model_and_trivial(figure, x, model, trivial, connect)
        caption = "Test RMSE on a log axis, beside the best constant predictor."
        if left_out > 0:
            caption += f" {left_out} groups with smaller force errors are left out."
        blocks.append(
            FigureBlock(f"group-{name}", f"{name.capitalize()} by {group_name}", caption, figure, height=320)
        )
    return blocks


def _model_and_trivial(figure: go.Figure, x: Any, model: list, trivial: list, connect: bool) -> None:
    mode = "lines+markers" if connect else "markers"
    for values, name, colour, symbol in (
        (trivial, "trivial", GREY, "diamond"),
        (model, "model", BLUE, "circle"),
    ):
        figure.add_trace(
            go.Scatter(
                x=x,
                y=values,
                mode=mode,
                name=name,
                line={"color": colour, "width": 1.5},
                marker={"color": colour, "size": 8, "symbol": symbol},
                hovertemplate="%{x}: %{y:.3g}<extra>" + name + "</extra>",
            )
        )
    log_axis(figure, "y")
    if not connect:
        figure.update_layout(xaxis={"type": "category"})


def errors_by_force_size(rows: Sequence[Mapping[str, Any]]) -> list[FigureBlock]:
    """Force RMSE in slices of the labelled force's magnitude: absolute, and in percent of the slice's RMS."""
    x = [f"{number(row['low'], 2)}–{number(row['high'], 2)}" for row in rows]
    share = [f"{100 * (row['quantiles'][1] - row['quantiles'][0]):g} %" for row in rows]
    size = "force on the atom / eV/Å"
    absolute = empty_figure(size, "force RMSE / meV/Å")
    _model_and_trivial(
        absolute, x, [r["force_rmse"] for r in rows], [r["trivial"]["force_rmse"] for r in rows], False
    )
    relative = empty_figure(size, "RMSE / % of force RMS", showlegend=False)
    relative.update_layout(xaxis={"type": "category"})
    relative.add_trace(
        go.Bar(
            x=x,
            y=[r["force_rmse_percent"] for r in rows],
            marker_color=BLUE,
            customdata=share,
            hovertemplate="%{x} eV/Å (%{customdata} of the atoms): %{y:.3g} %<extra></extra>",
        )
    )
    cosine = empty_figure(size, "mean cosine of force and label", showlegend=False)
    cosine.update_layout(xaxis={"type": "category"}, yaxis={"rangemode": "normal"})
    figures = [row["force_cosine"] for row in rows]
    cosine.add_trace(
        go.Scatter(x=x, y=figures, mode="lines+markers", line={"color": BLUE}, marker={"size": 8})
    )
    slices = "Slices hold " + ", ".join(share) + " of the atoms."
    return [
        FigureBlock("force-size", "Force error by force size", slices, absolute, height=320),
        FigureBlock(
            "force-size-relative", "Relative force error by force size", slices, relative, height=320
        ),
        FigureBlock(
            "force-direction",
            "Force direction by force size",
            "1 is right for every atom.",
            cosine,
            height=320,
        ),
    ]
