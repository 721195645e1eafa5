"""What the figures of the report share: their look, and how points are thinned."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

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


def empty_figure(x_title: str, y_title: str, **layout: Any) -> go.Figure:
    """A figure in the report's look, without data; titles are escaped here."""
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


def small(values: np.ndarray) -> np.ndarray:
    """Single precision is more than a screen shows, and half the size in the file."""
    return np.asarray(values, dtype=np.float32)


def as_numbers(groups: Sequence[str]) -> np.ndarray | None:
    """[groups] float64 where every group is a number and there are several, else None."""
    try:
        values = np.array([float(group) for group in groups])
    except ValueError:
        return None
    return values if len(np.unique(values)) > 1 and np.isfinite(values).all() else None


def log_axis(figure: go.Figure, letter: str) -> None:
    """A log axis over what is drawn on it, labelled at 1, 2, 5 of each decade if few decades are spanned."""
    drawn = [np.array(t[letter], dtype=float) for t in figure.data if getattr(t, "yaxis", None) != "y2"]
    values = np.concatenate(drawn) if drawn else np.empty(0)
    values = values[np.isfinite(values) & (values > 0)]
    axis: dict[str, Any] = {"type": "log"}
    if len(values):
        low, high = np.log10(values.min()), np.log10(values.max())
        span = high - low
        digits = (1, 2, 3, 5, 7) if span < 0.8 else (1, 2, 5) if span < 2.2 else (1,)
        decades = range(math.floor(low) - 1, math.ceil(high) + 2)
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        plain = low > -3.5 and high < 5.5
        labels = [f"{t:,.10g}" if plain else f"10<sup>{round(math.log10(t))}</sup>" for t in ticks]
        pad = 0.06 * max(span, 0.3)
        axis |= {"tickvals": ticks, "ticktext": labels, "range": [float(low - pad), float(high + pad)]}
    figure.update_layout({f"{letter}axis": axis})


def bar_above(title: str) -> dict[str, Any]:
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
    if len(kept) > most:
        kept = np.sort(np.random.default_rng(1).permutation(kept)[:most])
    return kept, counts[cell[kept]]
