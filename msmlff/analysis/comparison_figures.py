"""Pictures of a comparison: error against budget, ratios to the baseline, coverage against error."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from PIL import Image

from msmlff.analysis.comparison import Against, Comparison, Point, Row
from msmlff.analysis.comparison_cells import BASELINE
from msmlff.analysis.comparison_coverage import Correlation

# Okabe and Ito's colours; the baseline and the full set are grey and black
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8A929C", "#1F2933"
PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#7B4FA3")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
VERDICT_COLOURS = {"better": GREEN, "worse": ORANGE, "tie": GREY, "": GREY}
MOST_COLUMNS = 5
DPI = 150


@dataclass(frozen=True)
class Metric:
    """How a metric of the cells is written: key, name, unit, word in file names."""

    key: str
    name: str
    unit: str
    word: str

    @property
    def label(self) -> str:
        """Name and unit for an axis."""
        return f"{self.name} / {self.unit}"


FORCE = Metric("force_rmse", "force RMSE", "meV/Å", "forces")
ENERGY = Metric("energy_rmse", "energy RMSE", "meV/atom", "energy")
METRICS = (FORCE, ENERGY)


def error_figure(comparison: Comparison, metric: Metric, path: Path) -> Path:
    """Error against budget in log-log, a panel a selector: its mean and 95 % band before the baseline's.

    In every panel the other selectors are thin grey lines, the full set is a dashed line with its band.
    Panels are in the order of the tables: label-free, then label-aware ones.
    """
    rows = [row for aware in (False, True) for row in comparison.rows(aware) if row.label != BASELINE]
    baseline = comparison.points.get(BASELINE)
    if not rows and baseline is not None:
        rows = [row for row in comparison.rows(False) if row.label == BASELINE]
    columns = min(MOST_COLUMNS, max(1, math.ceil(math.sqrt(1.6 * len(rows)))))
    lines = math.ceil(len(rows) / columns)
    figure = Figure(figsize=(2.35 * columns + 0.5, 2.15 * lines + 0.75), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(rows) :]:
        axes.set_axis_off()
    for axes, row in zip(panels.flat, rows, strict=False):
        for other in rows:
            _curve(axes, other.points, GREY, linewidth=0.6, alpha=0.45)
        if comparison.full is not None:
            _full_line(axes, comparison.full)
        if baseline is not None:
            _curve(axes, baseline, INK, linewidth=1.1, band=0.13, marker="o", size=2.5)
        _curve(axes, row.points, _colour(row), linewidth=1.8, band=0.22, marker="o", size=4)
        _mark_failures(axes, row.points)
        _panel_style(axes, row, comparison)
    _log_ticks(list(panels.flat)[: len(rows)], comparison, rows)
    for i, axes in enumerate(panels.flat[: len(rows)]):
        # the lowest panel of each column carries the axis, though the last line may be shorter
        axes.tick_params(labelbottom=i + columns >= len(rows))
    figure.supxlabel("training frames", fontsize=10)
    figure.supylabel(metric.label, fontsize=10)
    figure.legend(
        handles=_error_legend(comparison, rows),
        loc="outside upper center",
        ncols=5,
        frameon=False,
        fontsize=8.5,
    )
    return _save(figure, path)


def _colour(row: Row) -> str:
    return ORANGE if row.label_aware else BLUE


def _error_legend(comparison: Comparison, rows: Sequence[Row]) -> list[Line2D]:
    handles = []
    if any(not row.label_aware for row in rows):
        handles.append(Line2D([], [], color=BLUE, marker="o", markersize=4, label="label-free"))
    if any(row.label_aware for row in rows):
        handles.append(Line2D([], [], color=ORANGE, marker="o", markersize=4, label="label-aware"))
    if BASELINE in comparison.points:
        handles.append(Line2D([], [], color=INK, marker="o", markersize=2.5, linewidth=1.1, label=BASELINE))
    if comparison.full is not None and comparison.full.error is not None:
        label = f"full set ({comparison.full.frames:.0f} frames)"
        handles.append(Line2D([], [], color=INK, linestyle="--", linewidth=1, label=label))
    handles.append(Line2D([], [], color=GREY, linewidth=0.8, label="the others"))
    return handles


def _curve(
    axes: Axes,
    points: Sequence[Point],
    colour: str,
    band: float = 0.0,
    marker: str = "",
    size: float = 0.0,
    **style: Any,
) -> None:
    drawn = [(p.frames, p.error) for p in points if p.error is not None]
    if not drawn:
        return
    x = [frames for frames, _ in drawn]
    axes.plot(x, [e.value for _, e in drawn], color=colour, marker=marker, markersize=size, **style)
    if band and any(e.low is not None for _, e in drawn):
        low = [e.low if e.low is not None else np.nan for _, e in drawn]
        high = [e.high if e.high is not None else np.nan for _, e in drawn]
        axes.fill_between(x, low, high, color=colour, alpha=band, linewidth=0)


def _full_line(axes: Axes, full: Point) -> None:
    if full.error is None:
        return
    axes.axhline(full.error.value, color=INK, linestyle="--", linewidth=1)
    if full.error.low is not None and full.error.high is not None:
        axes.axhspan(full.error.low, full.error.high, color=INK, alpha=0.07, linewidth=0)


def _mark_failures(axes: Axes, points: Sequence[Point]) -> None:
    """How many trainings failed, at the foot of the panel."""
    failed, cells = sum(p.failed for p in points), sum(p.cells for p in points)
    if failed:
        note = f"{failed} of {cells} failed"
        axes.text(0.04, 0.14, note, transform=axes.transAxes, fontsize=8, color=ORANGE)


def _panel_style(axes: Axes, row: Row, comparison: Comparison) -> None:
    axes.set(xscale="log", yscale="log")
    plain_axes(axes)
    axes.set_title(row.label, fontsize=9.5, fontweight="bold", loc="left", pad=4, color=_colour(row))
    if row.against is not None and row.against.ratio is not None:
        text = f"× {row.against.ratio.value:.3f}"
        if row.against.verdict:
            text += f"  {row.against.verdict}"
        colour = VERDICT_COLOURS[row.against.verdict]
        axes.text(
            0.97, 0.95, text, transform=axes.transAxes, ha="right", va="top", fontsize=8.5, color=colour,
            fontweight="bold" if row.against.verdict in ("better", "worse") else "normal",
        )  # fmt: skip


def _log_ticks(panels: Sequence[Axes], comparison: Comparison, rows: Sequence[Row]) -> None:
    """Plain numbers at the budgets, and at round errors."""
    if not panels:
        return
    errors = [p.error for row in rows for p in row.points if p.error is not None]
    errors += [p.error for p in comparison.points.get(BASELINE, ()) if p.error is not None]
    if comparison.full is not None and comparison.full.error is not None:
        errors.append(comparison.full.error)
    ends = [v for e in errors for v in (e.value, e.low, e.high) if v is not None]
    x = sorted({round(p.frames) for row in rows for p in row.points if math.isfinite(p.frames)})
    for axes in panels:
        axes.xaxis.set_major_locator(FixedLocator(x))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(labelsize=8)
        if ends:
            low, high = min(ends) / 1.05, max(ends) * 1.05
            axes.set_ylim(low, high)
            axes.yaxis.set_major_locator(FixedLocator(round_numbers(low, high)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def round_numbers(low: float, high: float) -> list[float]:
    """Round numbers for a log axis from low to high: three to seven of them where there are so many."""
    choices = [(1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(k / 4 for k in range(4, 40))]
    found: list[float] = []
    for digits in choices:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
        if len(found) >= 3:
            break
    return found[:: math.ceil(len(found) / 7)] if len(found) > 7 else found


def forest_figure(
    tables: Mapping[str, tuple[Sequence[str], Mapping[Metric, Mapping[str, Against | None]]]], path: Path
) -> Path:
    """Ratios of the area under the log-log curve to that of another selector, with 95 % intervals.

    A panel a metric; filled where the permutation test, after Holm's correction, tells a difference, hollow
    where it does not.

    Args:
        tables: heading -> (labels from above to below, metric -> label -> comparison); the tables stand
            below each other.
    """
    metrics = [m for m in METRICS if any(m in results for _, results in tables.values())]
    places, y = [], 0.0
    for heading, (labels, _) in tables.items():
        places.append((heading, y))
        y += 0.6 if heading else 0.0
        y += len(labels) + 0.4
    figure = Figure(figsize=(3.6 * len(metrics) + 1.6, 0.27 * y + 1.15), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    other = next((r.other for _, v in tables.values() for m in v.values() for r in m.values() if r), BASELINE)
    ticks: dict[float, str] = {}
    for axes, metric in zip(panels, metrics, strict=True):
        axes.axvline(1.0, color=INK, linewidth=0.9)
        for heading, start in places:
            labels, results = tables[heading]
            first = start + (0.6 if heading else 0.0)
            if heading and axes is panels[0]:
                ticks[start] = heading
            for k, label in enumerate(labels):
                ticks[first + k] = label
                _forest_line(axes, first + k, results.get(metric, {}).get(label))
        plain_axes(axes)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_title(metric.name, fontsize=10, loc="left", fontweight="bold")
        axes.set_xlabel(f"error ÷ error of {other}", fontsize=9)
        axes.set_ylim(y - 0.4, -0.8)
        axes.tick_params(axis="x", labelsize=8)
    panels[0].set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    for label in panels[0].get_yticklabels():
        if label.get_text() in tables:
            label.set(color=GREY, fontsize=8, fontstyle="italic")
    figure.legend(handles=_forest_legend(), loc="outside upper center", ncols=3, frameon=False, fontsize=8.5)
    return _save(figure, path)


def _forest_line(axes: Axes, y: float, result: Against | None) -> None:
    if result is None or result.ratio is None:
        return
    ratio, colour = result.ratio, VERDICT_COLOURS[result.verdict]
    if ratio.low is not None and ratio.high is not None:
        axes.plot([ratio.low, ratio.high], [y, y], color=colour, linewidth=2.0, solid_capstyle="butt")
    sure = result.verdict in ("better", "worse")
    axes.plot(ratio.value, y, "o", color=colour, markersize=7, markerfacecolor=colour if sure else "white")
    note = "" if result.p is None else f"p {format_p(result.p)}"
    if result.failed:
        note += f"  {result.failed} failed"
    axes.annotate(
        note, (1.0, y), (2, 0), xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=7,
        color=colour if sure else GREY, va="center", annotation_clip=False,
    )  # fmt: skip


def format_p(p: float) -> str:
    """A p value to two digits; below 0.001 the bound."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _forest_legend() -> list[Line2D]:
    style: dict[str, Any] = {"marker": "o", "markersize": 7, "linewidth": 2}
    return [
        Line2D([], [], color=GREEN, label="better", **style),
        Line2D([], [], color=GREY, markerfacecolor="white", label="tie", **style),
        Line2D([], [], color=ORANGE, label="worse", **style),
    ]


def coverage_figure(found: Correlation, budgets: Sequence[float], metric: Metric, path: Path) -> Path:
    """A coverage figure of every selection against its error, a panel a budget.

    The error is relative to the mean over all selections of that budget with the same initial weights.
    """
    drawn = [budget for budget in budgets if budget in found.by_budget]
    labels = sorted(set(found.labels), key=lambda label: (label != BASELINE, label))
    rows = math.ceil(len(labels) / (4 * max(1, len(drawn)) + 1))
    figure = Figure(figsize=(2.3 * len(drawn) + 0.6, 2.6 + 0.22 * rows), layout="constrained")
    panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    members = np.array(found.labels)
    for axes, budget in zip(panels, drawn, strict=True):
        column = list(budgets).index(budget)
        for label in labels:
            own = members == label
            deviation = 100 * np.expm1(found.y[own, column])
            axes.plot(found.x[own, column], deviation, linestyle="", **marker_of(label, labels))
        axes.axhline(0, color=GREY, linewidth=0.8)
        plain_axes(axes)
        rho = f"{found.by_budget[budget]:+.2f}".replace("-", "\N{MINUS SIGN}")
        axes.set_title(f"{budget} frames, ρ = {rho}", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.locator_params(axis="x", nbins=4)
    panels[0].set_ylabel(f"{metric.name} over\nthe mean of all / %", fontsize=9)
    figure.supxlabel(coverage_name(found.name), fontsize=9)
    handles = [Line2D([], [], linestyle="", label=label, **marker_of(label, labels)) for label in labels]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=math.ceil(len(labels) / rows),
        frameon=False,
        fontsize=8,
        handletextpad=0.1,
        columnspacing=1.0,
    )
    return _save(figure, path)


def coverage_name(name: str) -> str:
    """A coverage figure in words."""
    known = {
        "environment_share": "share of the pool's environments near a chosen one",
        "frame_share": "share of the pool's frames near a chosen one",
        "mean_distance": "mean distance of the pool's environments to the nearest chosen one",
        "dh_mean": "mean differential entropy dH of the pool given the selection",
    }
    return known.get(name, name.replace("_", " "))


def marker_of(label: str, labels: Sequence[str]) -> dict[str, Any]:
    """Colour and marker of a selector among all: none occurs twice up to 49 selectors."""
    if label == BASELINE:
        return {"marker": "x", "color": INK, "markersize": 4.5, "markeredgewidth": 1.0}
    i = [other for other in labels if other != BASELINE].index(label)
    colour = PALETTE[i % len(PALETTE)]
    marker = MARKERS[(i + i // len(PALETTE)) % len(MARKERS)]
    return {"marker": marker, "color": colour, "markersize": 4.5, "markeredgewidth": 0, "alpha": 0.85}


def plain_axes(axes: Axes) -> None:
    """The look of all pictures: a faint grid, no box."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E8EBEF", linewidth=0.7)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> Path:
    """A PNG of 256 colours: a third of the size, and nothing here has more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    return path
