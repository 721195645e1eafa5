"""The report's figures of the selection and of the training, drawn by plotly in the reader's browser."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from msmlff.analysis.figure_style import (
    BLUE,
    COLOUR_SCALE,
    GREY,
    MOST_MAP_POINTS,
    ORANGE,
    FigureBlock,
    bar_above,
    empty_figure,
    log_axis,
    small,
    thin,
)
from msmlff.analysis.run_folder import RunFolder

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
    figure = empty_figure("principal component 1", "principal component 2")
    inside = {"x": 0.01, "y": 0.99, "xanchor": "left", "yanchor": "top", "bgcolor": "rgba(255,255,255,0.8)"}
    figure.update_layout(legend=inside)
    for mask, name, marker in (
        (shown & ~chosen, "pool", {"size": 6, "opacity": 0.6}),
        (shown & chosen, "chosen", {"size": 9, "line": {"color": ORANGE, "width": 1.8}}),
    ):
        if known.any():
            colour = {"color": small(log_density[mask]), "colorscale": COLOUR_SCALE}
            # the tails of a log density are long: they would leave one colour for the rest
            low, high = np.quantile(log_density[known], [0.02, 1.0])
            colour |= {"cmin": float(low), "cmax": float(high), "showscale": name == "chosen"}
            colour |= {"colorbar": bar_above("log density")}
        else:
            colour = {"color": GREY if name == "pool" else BLUE}
        x, y = small(arrays["pca"][mask].T)
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
    figure = empty_figure(group_name, "frames")
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


def learning_curves(metrics: Mapping[str, np.ndarray], best_step: int | None) -> list[FigureBlock]:
    """Training loss with the learning rate, and validation errors, against the optimiser step; ``best_step``
    is that of the weights that were kept."""
    if "step" not in metrics:
        return []
    best = _row_of(metrics, best_step)
    blocks = [_loss_curve(metrics)] if "train/loss" in metrics else []
    units = {"energy": "meV/atom", "force": "meV/Å", "stress": "meV/Å³"}
    for name, unit in units.items():
        figure = empty_figure("step", f"{name} error / {unit}")
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
                    name="best",
                    marker={"symbol": "star", "size": 13, "color": ORANGE},
                )
            )
        log_axis(figure, "x")
        log_axis(figure, "y")
        caption = "Validation set, averaged weights where they are used."
        blocks.append(
            FigureBlock(f"learning-{name}", f"Validation {name} error", caption, figure, height=300)
        )
    return [*blocks, *_stability_curve(metrics, best)]


def _stability_curve(metrics: Mapping[str, np.ndarray], best: int | None) -> list[FigureBlock]:
    """How long short dynamics from validation frames stay within their limits; none where none was run."""
    times = metrics.get("val/stable_time_fs", np.full(len(metrics["step"]), np.nan))
    rows = np.flatnonzero(np.isfinite(times))
    if not len(rows):
        return []
    figure = empty_figure("step", "mean time / fs")
    for title, name, axis, colour in (
        ("time", "val/stable_time_fs", "y", BLUE),
        ("share that stayed (right)", "val/stable_share", "y2", GREY),
    ):
        figure.add_trace(
            go.Scatter(
                x=small(metrics["step"][rows]),
                y=small(metrics[name][rows]),
                mode="lines+markers",
                name=title,
                yaxis=axis,
                marker={"size": 5},
                line={"color": colour, "dash": "solid" if axis == "y" else "dot"},
            )
        )
    if best is not None and best in rows:
        star = {"symbol": "star", "size": 13, "color": ORANGE}
        x, y = metrics["step"][[best]], times[[best]]
        figure.add_trace(go.Scatter(x=x, y=y, mode="markers", name="best", marker=star))
    right = {
        "overlaying": "y",
        "side": "right",
        "range": [0, 1.05],
        "tickvals": [0, 0.5, 1],
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
    }
    figure.update_layout(yaxis={"rangemode": "tozero"}, yaxis2=right)
    log_axis(figure, "x")
    caption = "Short dynamics from validation frames: when they left their limits, or ended."
    return [FigureBlock("learning-stability", "Stability of dynamics", caption, figure, height=300)]


def _row_of(metrics: Mapping[str, np.ndarray], step: int | None) -> int | None:
    """The validation after ``step`` optimiser steps."""
    score = metrics.get("val/score", np.full(len(metrics["step"]), np.nan))
    # Rows are numbered from 0, the weights by the steps made.
    found = np.flatnonzero((metrics["step"] + 1 == step) & np.isfinite(score))
    return int(found[-1]) if len(found) else None


def _curve(metrics: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values that can be drawn on log axes."""
    step, values = metrics["step"], metrics.get(name, np.full(len(metrics["step"]), np.nan))
    good = np.isfinite(values) & (values > 0) & (step > 0)
    return small(step[good]), small(values[good])


def _loss_curve(metrics: Mapping[str, np.ndarray]) -> FigureBlock:
    figure = empty_figure("step", "training loss")
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
    log_axis(figure, "x")
    log_axis(figure, "y")
    caption = "Loss of single batches, as weighted at that step, and the learning rate."
    return FigureBlock("learning-loss", "Training loss", caption, figure, height=300)
