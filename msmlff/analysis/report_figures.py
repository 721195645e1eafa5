"""The report's figures, as plotly figures that are drawn in the reader's browser."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from ase.units import GPa

from msmlff.analysis.errors import Predictions
from msmlff.analysis.run_folder import RunFolder
from msmlff.analysis.tables import figure as number

# Okabe and Ito's colours and cividis: both are told apart by the colour-blind.
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#9AA1AB", "#1F2933"
COLOUR_SCALE = "Cividis"

MOST_MAP_POINTS = 6000
MOST_PARITY_POINTS = 3000
MOST_GROUPS = 60


@dataclass(frozen=True)
class FigureBlock:
    """A figure with the words around it.

    Attributes:
        name: id of its element in the page.
        title, caption: plain text (escaped by the template).
        figure: what plotly draws.
        height: px.
        wide: spans the page instead of a column.
    """

    name: str
    title: str
    caption: str
    figure: go.Figure
    height: int = 340
    wide: bool = False


def _base(x_title: str, y_title: str, **layout: Any) -> go.Figure:
    axis: dict[str, Any] = {
        "gridcolor": "#E8EBEF",
        "linecolor": "#B8C0CA",
        "ticks": "outside",
        "tickcolor": "#B8C0CA",
    }
    axis |= {"zeroline": False, "automargin": True, "showline": True}
    figure = go.Figure()
    figure.update_layout(
        template=None,
        font={
            "family": "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif",
            "size": 12,
            "color": INK,
        },
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="#FFFFFF",
        margin={"l": 56, "r": 14, "t": 12, "b": 46},
        hoverlabel={"bgcolor": "#FFFFFF", "bordercolor": "#B8C0CA", "font": {"color": INK}, "align": "left"},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "bgcolor": "rgba(0,0,0,0)"},
        hovermode="closest",
        xaxis=axis | {"title": {"text": html.escape(x_title)}},
        yaxis=axis | {"title": {"text": html.escape(y_title)}},
        **layout,
    )
    return figure


def _small(values: np.ndarray) -> np.ndarray:
    """Single precision is more than a screen shows, and half the size in the file."""
    return np.asarray(values, dtype=np.float32)


def as_numbers(groups: Sequence[str]) -> np.ndarray | None:
    """[groups] float64 where every group is a number and there are several, else None."""
    try:
        values = np.array([float(group) for group in groups])
    except ValueError:
        return None
    return values if len(np.unique(values)) > 1 and np.isfinite(values).all() else None


# --- the pool and what was chosen from it


def pool_map(run: RunFolder, group_name: str) -> FigureBlock:
    """The pool in its first two principal components, coloured by log density, chosen frames ringed."""
    assert run.pool_map is not None
    arrays = run.pool_map
    chosen = arrays["chosen"].astype(bool)
    shown = _thinned_pool(arrays["pca"], chosen)
    order = {int(i): rank for rank, i in enumerate((run.selection or {}).get("ids", ()), start=1)}
    text = np.array([_map_hover(arrays, i, group_name, order) for i in range(len(chosen))])
    log_density = np.asarray(arrays["log_density"], dtype=float)
    known = np.isfinite(log_density)
    figure = _base("principal component 1", "principal component 2")
    figure.update_layout(margin={"r": 10})
    for mask, name, marker in (
        (shown & ~chosen, "pool", {"size": 6, "opacity": 0.6}),
        (shown & chosen, "chosen", {"size": 9, "line": {"color": ORANGE, "width": 1.8}}),
    ):
        if known.any():
            colour = {"color": _small(log_density[mask]), "colorscale": COLOUR_SCALE}
            # the tails of a log density are long: they would leave one colour for the rest
            low, high = np.quantile(log_density[known], [0.02, 1.0])
            colour |= {"cmin": float(low), "cmax": float(high), "showscale": name == "chosen"}
            colour |= {"colorbar": {"title": {"text": "log density", "side": "right"}, "thickness": 12}}
        else:
            colour = {"color": GREY if name == "pool" else BLUE}
        x, y = _small(arrays["pca"][mask].T)
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="markers",
                name=f"{name} ({int((chosen == (name == 'chosen')).sum())})",
                marker=marker | colour,
                text=text[mask].tolist(),
                hoverinfo="text",
            )
        )
    caption = (
        "Each point is a frame of the pool; chosen frames are ringed in orange. Point at one for its number."
    )
    if shown.sum() < len(shown):
        caption += (
            f" {int(shown.sum())} of {len(shown)} frames are drawn, the others thinned where they crowd."
        )
    return FigureBlock("pool-map", "Map of the pool", caption, figure, height=520, wide=True)


def _thinned_pool(pca: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    shown = chosen.copy()
    rest = np.flatnonzero(~chosen)
    room = max(0, MOST_MAP_POINTS - int(chosen.sum()))
    kept = thin(pca[rest, 0], pca[rest, 1], room)[0] if room else np.empty(0, dtype=int)
    shown[rest[kept]] = True
    return shown


def _map_hover(arrays: Mapping[str, np.ndarray], i: int, group_name: str, order: Mapping[int, int]) -> str:
    frame = int(arrays["frame_id"][i])
    lines = [f"<b>frame {frame}</b>"]
    if str(arrays["group"][i]):
        lines.append(f"{html.escape(group_name)}: {html.escape(str(arrays['group'][i]))}")
    if str(arrays["band"][i]):
        lines.append(f"band: {html.escape(str(arrays['band'][i]))}")
    if math.isfinite(arrays["log_density"][i]):
        lines.append(f"log density: {arrays['log_density'][i]:.2f}")
    if frame in order:
        lines.append(f"chosen as number {order[frame]}")
    else:
        lines.append("chosen" if arrays["chosen"][i] else "not chosen")
    return "<br>".join(lines)


def chosen_by_group(run: RunFolder, groups: Sequence[str], group_name: str) -> FigureBlock:
    """Share of each group's frames that was chosen."""
    assert run.pool_map is not None
    group = run.pool_map["group"].astype(str)
    total = np.array([(group == g).sum() for g in groups])
    chosen = np.array([run.pool_map["chosen"][group == g].sum() for g in groups])
    figure = _base(group_name, "frames")
    labels = [html.escape(g) for g in groups]
    rest = "%{x}: %{y} not chosen<extra></extra>"
    figure.add_trace(
        go.Bar(
            x=labels,
            y=chosen,
            name="chosen",
            marker_color=ORANGE,
            hovertemplate="%{x}: %{y} chosen<extra></extra>",
        )
    )
    figure.add_trace(
        go.Bar(x=labels, y=total - chosen, name="not chosen", marker_color="#D5DAE1", hovertemplate=rest)
    )
    figure.update_layout(barmode="stack", bargap=0.25, xaxis={"type": "category"})
    caption = "How many frames of each group went into the training set."
    return FigureBlock("chosen-by-group", f"Chosen by {group_name}", caption, figure, height=260, wide=True)


# --- learning curves


def learning_curves(metrics: Mapping[str, np.ndarray]) -> list[FigureBlock]:
    """Training loss with the learning rate, and validation errors, against the optimiser step."""
    if "step" not in metrics:
        return []
    best = _best_row(metrics)
    blocks = [_loss_curve(metrics)] if "train/loss" in metrics else []
    units = {"energy": "meV/atom", "force": "meV/Å", "stress": "meV/Å³"}
    for name, unit in units.items():
        figure = _base("step", f"{name} error / {unit}")
        for kind, colour, dash in (("rmse", BLUE, "solid"), ("mae", GREY, "dot")):
            x, y = _curve(metrics, f"val/{name}_{kind}")
            if len(x):
                figure.add_trace(
                    go.Scatter(
                        x=x,
                        y=y,
                        mode="lines+markers",
                        name=kind.upper(),
                        marker={"size": 5},
                        line={"color": colour, "dash": dash},
                    )
                )
        if not figure.data:
            continue
        if best is not None and math.isfinite(
            metrics.get(f"val/{name}_rmse", np.full(best + 1, np.nan))[best]
        ):
            x, y = metrics["step"][[best]], metrics[f"val/{name}_rmse"][[best]]
            figure.add_trace(
                go.Scatter(
                    x=x,
                    y=y,
                    mode="markers",
                    name="best score",
                    marker={"symbol": "star", "size": 13, "color": ORANGE},
                )
            )
        _log_axis(figure, "x")
        _log_axis(figure, "y")
        caption = "Validation set, averaged weights where they are used."
        blocks.append(
            FigureBlock(f"learning-{name}", f"Validation {name} error", caption, figure, height=300)
        )
    return blocks


def _best_row(metrics: Mapping[str, np.ndarray]) -> int | None:
    score = metrics.get("val/score", np.empty(0))
    return int(np.nanargmin(score)) if np.isfinite(score).any() else None


def _curve(metrics: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values that can be drawn on log axes."""
    step, values = metrics["step"], metrics.get(name, np.full(len(metrics["step"]), np.nan))
    good = np.isfinite(values) & (values > 0) & (step > 0)
    return _small(step[good]), _small(values[good])


def _loss_curve(metrics: Mapping[str, np.ndarray]) -> FigureBlock:
    figure = _base("step", "training loss")
    x, y = _curve(metrics, "train/loss")
    figure.add_trace(go.Scatter(x=x, y=y, mode="lines", name="loss", line={"color": BLUE, "width": 1.2}))
    x, y = _curve(metrics, "lr")
    if len(x):
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                name="learning rate (right)",
                yaxis="y2",
                line={"color": GREY, "dash": "dot"},
            )
        )
        figure.update_layout(
            yaxis2={
                "overlaying": "y",
                "side": "right",
                "type": "log",
                "showgrid": False,
                "exponentformat": "power",
                "dtick": 1,
                "automargin": True,
            }
        )
    _log_axis(figure, "x")
    _log_axis(figure, "y")
    caption = "Loss of single batches, as weighted at that step, and the learning rate."
    return FigureBlock("learning-loss", "Training loss", caption, figure, height=300)


def _log_axis(figure: go.Figure, letter: str) -> None:
    """A log axis over what is drawn on it, labelled at 1, 2, 5 of each decade if few decades are spanned."""
    drawn = [np.array(t[letter], dtype=float) for t in figure.data if getattr(t, "yaxis", None) != "y2"]
    values = np.concatenate(drawn) if drawn else np.empty(0)
    values = values[np.isfinite(values) & (values > 0)]
    axis: dict[str, Any] = {"type": "log"}
    if len(values):
        low, high = np.log10(values.min()), np.log10(values.max())
        digits = (1, 2, 5) if high - low < 2.2 else (1,)
        decades = range(math.floor(low) - 1, math.ceil(high) + 2)
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        plain = low > -3.5 and high < 5.5
        labels = [f"{t:,.10g}" if plain else f"10<sup>{round(math.log10(t))}</sup>" for t in ticks]
        pad = 0.06 * max(high - low, 0.3)
        axis |= {"tickvals": ticks, "ticktext": labels, "range": [float(low - pad), float(high + pad)]}
    figure.update_layout({f"{letter}axis": axis})


# --- parity and error distributions


def thin(x: np.ndarray, y: np.ndarray, most: int, bins: int = 72) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` of the points, taken from crowded cells of a grid so that outliers stay.

    Returns:
        (indices of the points kept, number of points in the cell of each of them before thinning).
    """
    if not len(x):
        return np.empty(0, dtype=int), np.empty(0, dtype=int)
    cells = np.zeros(len(x), dtype=int)
    for values in (x, y):
        span = np.ptp(values) or 1.0
        cells = cells * bins + np.minimum((bins * (values - values.min()) / span).astype(int), bins - 1)
    _, cell, counts = np.unique(cells, return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng(0).permutation(len(x))
    by_cell = shuffled[np.argsort(cell[shuffled], kind="stable")]
    rank = np.empty(len(x), dtype=int)
    rank[by_cell] = np.arange(len(x)) - np.repeat(np.cumsum(counts) - counts, counts)
    cap = int(counts.max())
    while cap > 1 and np.minimum(counts, cap).sum() > most:
        cap = int(cap * 0.8)
    kept = np.flatnonzero(rank < cap)
    return kept, counts[cell[kept]]


def parity_figures(p: Predictions, group_name: str) -> list[FigureBlock]:
    """Predicted against labelled energies per atom (E0s taken off), force components and pressures."""
    group = p.group.astype(str)
    names = [
        f"frame {i}" + (f" · {html.escape(g)}" if g else "") for i, g in zip(p.frame_id, group, strict=True)
    ]
    level = as_numbers(group.tolist())
    e0 = p.e0_energy
    frames = _FramePoints(names, level, group_name)
    label, predicted = (p.energy_label - e0) / p.num_atoms, (p.energy - e0) / p.num_atoms
    blocks = []
    if (figure := frames.parity(label, predicted, "energy", "eV/atom")) is not None:
        caption = "A point a frame; energy per atom less the E0s."
        blocks.append(FigureBlock("parity-energy", "Energy", caption, figure, height=400))
    if (block := _force_parity(p)) is not None:
        blocks.append(block)
    to_pressure = -1.0 / 3.0 / GPa
    label = to_pressure * np.trace(p.stress_label, axis1=1, axis2=2)
    predicted = to_pressure * np.trace(p.stress, axis1=1, axis2=2)
    if (figure := frames.parity(label, predicted, "pressure", "GPa")) is not None:
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
            marker |= {"color": _small(self.level[kept]), "colorscale": COLOUR_SCALE, "showscale": True}
            marker["colorbar"] = _bar_above(self.group_name)
        text = [
            f"{self.names[i]}<br>label {label[i]:.4f} {unit}<br>model {predicted[i]:.4f} {unit}" for i in kept
        ]
        x, y = _small(label[kept]), _small(predicted[kept])
        figure.add_trace(go.Scatter(x=x, y=y, mode="markers", marker=marker, text=text, hoverinfo="text"))
        return figure


def _bar_above(title: str) -> dict[str, Any]:
    """A colour bar that leaves the plot its width."""
    where = {
        "orientation": "h",
        "x": 0.5,
        "y": 1.01,
        "yanchor": "bottom",
        "len": 1.0,
        "thickness": 9,
        "ypad": 0,
    }
    return where | {"title": {"text": html.escape(title), "side": "top"}, "nticks": 6, "outlinewidth": 0}


def _parity_base(label: np.ndarray, predicted: np.ndarray, what: str, unit: str) -> go.Figure:
    low, high = min(label.min(), predicted.min()), max(label.max(), predicted.max())
    pad = 0.04 * ((high - low) or 1.0)
    ends = [float(low - pad), float(high + pad)]
    figure = _base(f"label: {what} / {unit}", f"model: {what} / {unit}", showlegend=False)
    figure.update_layout(xaxis={"range": ends}, yaxis={"range": ends})
    line = {"color": GREY, "width": 1}
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip"))
    rmse = float(np.sqrt(np.square(predicted - label).mean()))
    shown = (1e3 * rmse, "m" + unit) if unit.startswith("eV") else (rmse, unit)
    words = f"RMSE {number(shown[0])} {html.escape(shown[1])}"
    place = {"xref": "paper", "yref": "paper", "x": 0.03, "y": 0.97, "xanchor": "left", "yanchor": "top"}
    figure.add_annotation(text=words, showarrow=False, bgcolor="rgba(255,255,255,0.8)", **place)
    return figure


def _force_parity(p: Predictions) -> FigureBlock | None:
    label, predicted = p.forces_label.ravel(), p.forces.ravel()
    good = np.isfinite(label) & np.isfinite(predicted)
    if not good.any():
        return None
    label, predicted = label[good], predicted[good]
    kept, crowd = thin(label, predicted, MOST_PARITY_POINTS)
    order = np.argsort(crowd, kind="stable")
    kept, crowd = kept[order], crowd[order]
    figure = _parity_base(label, predicted, "force component", "eV/Å")
    ticks = np.arange(0, math.ceil(math.log10(crowd.max())) + 1)
    bar = _bar_above("components in the cell")
    bar |= {"tickvals": ticks.tolist(), "ticktext": [f"{10**t:,}" for t in ticks.tolist()]}
    marker = {
        "size": 4,
        "color": _small(np.log10(crowd)),
        "colorscale": COLOUR_SCALE,
        "showscale": True,
        "colorbar": bar,
    }
    figure.add_trace(
        go.Scatter(
            x=_small(label[kept]),
            y=_small(predicted[kept]),
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
    pressure = -np.trace(p.stress - p.stress_label, axis1=1, axis2=2) / 3.0 / GPa
    blocks = []
    for name, title, errors, unit in (
        ("energy", "Energy error", 1e3 * (p.energy - p.energy_label) / p.num_atoms, "meV/atom"),
        ("forces", "Force error", 1e3 * (p.forces - p.forces_label).ravel(), "meV/Å"),
        ("pressure", "Pressure error", pressure, "GPa"),
    ):
        errors = errors[np.isfinite(errors)]
        if not len(errors):
            continue
        reach = float(np.abs(errors).max()) or 1.0
        counts, edges = np.histogram(
            errors, bins=min(81, 2 * round(math.sqrt(len(errors))) + 1), range=(-reach, reach)
        )
        figure = _base(f"model − label / {unit}", "count", showlegend=False, bargap=0.03)
        middle = 0.5 * (edges[1:] + edges[:-1])
        figure.add_trace(
            go.Bar(
                x=_small(middle),
                y=counts,
                marker_color=BLUE,
                hovertemplate="%{x:.3g} " + unit + ": %{y}<extra></extra>",
            )
        )
        figure.add_vline(x=float(errors.mean()), line={"color": ORANGE, "width": 1.5, "dash": "dash"})
        if name == "forces":
            figure.update_layout(yaxis={"type": "log", "dtick": 1, "exponentformat": "power"})
        spread = (
            f"mean {number(float(errors.mean()))}, standard deviation {number(float(errors.std()))} {unit}"
        )
        blocks.append(FigureBlock(f"histogram-{name}", title, f"Dashed: {spread}.", figure, height=280))
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
        figure = _base(group_name, f"{name} RMSE / {unit}")
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
    _log_axis(figure, "y")
    if not connect:
        figure.update_layout(xaxis={"type": "category"})


def errors_by_force_size(rows: Sequence[Mapping[str, Any]]) -> list[FigureBlock]:
    """Force RMSE in slices of the labelled force's magnitude: absolute, and in percent of the slice's RMS."""
    x = [f"{number(row['low'], 2)}–{number(row['high'], 2)}" for row in rows]
    share = [f"{100 * (row['quantiles'][1] - row['quantiles'][0]):g} %" for row in rows]
    size = "force on the atom / eV/Å"
    absolute = _base(size, "force RMSE / meV/Å")
    _model_and_trivial(
        absolute, x, [r["force_rmse"] for r in rows], [r["trivial"]["force_rmse"] for r in rows], False
    )
    relative = _base(size, "RMSE / % of force RMS", showlegend=False)
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
    cosine = _base(size, "mean cosine of force and label", showlegend=False)
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
