"""The sections of a comparison's page: sentences, tables and pictures, in no form yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msmlff.analysis import comparison_figures as figures
from msmlff.analysis.comparison import ALPHA, Against, Comparison, Row
from msmlff.analysis.comparison_cells import BASELINE, FULL, Study
from msmlff.analysis.comparison_coverage import Correlation, correlations, costs
from msmlff.analysis.comparison_figures import FORCE, METRICS, Metric
from msmlff.analysis.comparison_method import PROBE
from msmlff.analysis.comparison_words import CPD, estimate, findings, p_value, percent, plain, ratio, seconds
from msmlff.analysis.tables import NOTHING, figure

KINDS = {False: "Label-free selectors", True: "Label-aware selectors"}
MOST_MESSAGES = 8


@dataclass(frozen=True)
class Table:
    """A table with its title and what is to be said below it."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture beside the page."""

    file: Path
    title: str
    caption: str


@dataclass
class Part:
    """A section: sentences, then pictures and tables in order."""

    title: str
    sentences: list[str] = field(default_factory=list)
    blocks: list[Table | Picture] = field(default_factory=list)


def build_parts(study: Study, folder: Path) -> list[Part]:
    """All sections of the page of one study; writes the pictures into ``folder``."""
    found = {metric: Comparison(study, metric.key) for metric in METRICS}
    found = {metric: comparison for metric, comparison in found.items() if comparison.has_values}
    parts = [_overview(study, found, folder)]
    for metric, comparison in found.items():
        parts.append(_errors(comparison, metric, folder))
    parts += [_head_to_head(found), _sensitivity(found, folder), _coverage(found, folder), _cost(study)]
    parts.append(_settings(study))
    return [part for part in parts if part.sentences or part.blocks]


def _overview(study: Study, found: Mapping[Metric, Comparison], folder: Path) -> Part:
    part = Part("Result")
    for aware in (False, True):
        for metric, comparison in found.items():
            if any(row.label != BASELINE for row in comparison.rows(aware)):
                text = " ".join(findings(comparison, metric, aware))
                part.sentences.append(f"**{KINDS[aware]}, {metric.word}.** {text}")
    failed = [cell for cell in study.cells if cell.status != "finished"]
    trained = f"{len(study.cells)} trainings"
    part.sentences.append(
        f"{trained}, {len(failed)} of them failed." if failed else f"{trained}, none failed."
    )
    if not found:
        part.sentences.append("No training has finished: there is nothing to compare yet.")
    tables = _forest_tables(found)
    if tables:
        caption = (
            f"Error divided by that of {BASELINE}, both averaged over the budgets (area under the log-log "
            "curve), with 95 % intervals; p of the paired test after Holm's correction."
        )
        file = figures.forest_figure(tables, folder / "auc.png")
        part.blocks.append(Picture(file, f"Error relative to {BASELINE}", caption))
    return part


def _forest_tables(found: Mapping[Metric, Comparison]) -> dict[str, Any]:
    tables = {}
    for aware, kind in KINDS.items():
        results: dict[Metric, dict[str, Against | None]] = {}
        labels: list[str] = []
        for metric, comparison in found.items():
            rows = [row for row in comparison.rows(aware) if row.against is not None]
            results[metric] = {row.label: row.against for row in rows}
            labels = labels or [row.label for row in rows]
        if labels:
            tables[kind.removesuffix(" selectors").lower()] = (labels, results)
    return tables


def _errors(comparison: Comparison, metric: Metric, folder: Path) -> Part:
    part = Part(f"Errors of {metric.word}" if metric is FORCE else "Errors of energies")
    caption = (
        f"Geometric mean over selections and initial weights, with 95 % band; {BASELINE} black, the other "
        "selectors grey, all frames of the pool dashed. The number is the ratio of the areas to that of "
        f"{BASELINE}, with the verdict of the test."
    )
    file = figures.error_figure(comparison, metric, folder / f"error_{metric.word}.png")
    part.blocks.append(Picture(file, f"{metric.name} against the number of training frames", caption))
    for aware, kind in KINDS.items():
        rows = comparison.rows(aware)
        if rows:
            part.blocks += [
                _ratio_table(rows, comparison, kind),
                _error_table(rows, comparison, metric, kind),
            ]
    return part


def _ratio_table(rows: Sequence[Row], comparison: Comparison, kind: str) -> Table:
    by_atoms = any(
        row.against and row.against.ratio_atoms and row.against.ratio
        and abs(row.against.ratio_atoms.value / row.against.ratio.value - 1) > 5e-4
        for row in rows
    )  # fmt: skip
    headings = ["selector", f"error ÷ {BASELINE} [95 %]", "p (Holm)", "verdict"]
    headings += [f"÷ {BASELINE}, in atoms"] if by_atoms else []
    headings += ["n_eq", f"data saved against {BASELINE}, median", "pairs", "failed"]
    cells = []
    for row in rows:
        against = row.against
        line = [row.label, *_verdict_cells(against)]
        if row.label == BASELINE:
            line = [row.label, "1", NOTHING, "baseline"]
        if by_atoms:
            line.append("1" if row.label == BASELINE else ratio(against.ratio_atoms if against else None))
        line += [_n_eq(row, comparison), percent(row.saving)]
        line += [str(against.pairs) if against else NOTHING, _failed(row.failed, row.cells)]
        cells.append(line)
    return Table(f"{kind}: area under the curve", headings, cells, _ratio_caption(rows, comparison))


def _ratio_caption(rows: Sequence[Row], comparison: Comparison) -> str:
    full = comparison.full
    text = ""
    if full is not None and full.error is not None:
        text = f"Full set: {estimate(full.error)} with {full.frames:.0f} frames, {full.cells} trainings"
        text += f", {full.failed} failed. " if full.failed else ". "
    if any(row.failed for row in rows):
        text += (
            "† means over the trainings that finished; in the tests a failed one counts as 1.1 times the "
            "worst. "
        )
    short = [
        row for row in rows if row.against is not None and row.against.budgets != tuple(comparison.budgets)
    ]
    for row in short:
        if row.against is not None:
            budgets = ", ".join(map(str, row.against.budgets))
            text += f"{row.label} is compared at {budgets} frames alone. "
    return text.strip()


def _verdict_cells(against: Against | None) -> list[str]:
    if against is None:
        return [NOTHING, NOTHING, NOTHING]
    mark = " †" if against.failed else ""
    return [ratio(against.ratio) + mark, p_value(against.p), against.verdict or NOTHING]


def _n_eq(row: Row, comparison: Comparison) -> str:
    if comparison.full is None or comparison.full.error is None or not comparison.budgets:
        return NOTHING
    return str(row.n_eq) if row.n_eq is not None else f"> {comparison.budgets[-1]}"


def _failed(failed: int, cells: int) -> str:
    return f"{failed} of {cells}" if failed else f"0 of {cells}"


def _error_table(rows: Sequence[Row], comparison: Comparison, metric: Metric, kind: str) -> Table:
    cells = []
    for row in rows:
        line = [row.label]
        for point in row.points:
            text = estimate(point.error)
            saved = row.savings.get(point.budget) if point.budget is not None else None
            text += f"; {percent(saved)}" if saved is not None else ""
            text += f"; {point.failed} of {point.cells} failed" if point.failed else ""
            line.append(text)
        cells.append(line)
    headings = ["selector", *(f"{budget}" for budget in comparison.budgets)]
    caption = f"Mean [95 % interval]; share of data saved against {BASELINE} at that error."
    return Table(f"{kind}: {metric.label} at each budget", headings, cells, caption)


def _head_to_head(found: Mapping[Metric, Comparison]) -> Part:
    """Every selector against the best label-free one, and against CPD."""
    part = Part("Against the best, and against CPD")
    for metric, comparison in found.items():
        rows = [row for aware in (False, True) for row in comparison.rows(aware)]
        labels = list(dict.fromkeys(row.label for row in rows))
        ranked = [row.label for row in comparison.rows(False) if row.label != BASELINE]
        others = [label for label in dict.fromkeys([*ranked[:1], CPD]) if label in comparison.grids]
        if len(labels) < 3 or not others:
            continue
        results = {other: comparison.against(labels, other) for other in others}
        headings = ["selector", *(h for o in others for h in (f"error ÷ {o} [95 %]", "p (Holm)", "verdict"))]
        cells = []
        for label in labels:
            line = [label]
            for other in others:
                line += _verdict_cells(results[other][label]) if label != other else ["1", NOTHING, NOTHING]
            cells.append(line)
        notes = (_blind_note(results[other], f"Against {other}, ") for other in others)
        part.blocks.append(Table(metric.name, headings, cells, " ".join(filter(None, notes))))
    return part


def _blind_note(results: Mapping[str, Against | None], lead: str = "") -> str:
    """How many comparisons of a table could not be significant whatever their numbers."""
    smallest = [r.smallest_p for r in results.values() if r is not None and r.smallest_p is not None]
    blind = [p for p in smallest if p >= ALPHA]
    if not blind:
        return ""
    text = (
        f"{lead}{len(blind)} of {len(smallest)} tests have too few selections to show any difference: their "
        f"smallest p after the correction is {p_value(min(blind))}, and their ties say nothing."
    )
    return text[0].upper() + text[1:]


def _sensitivity(found: Mapping[Metric, Comparison], folder: Path) -> Part:
    part = Part("Sensitivity to the parameters")
    results: dict[str, dict[Metric, dict[str, Against | None]]] = {}
    for metric, comparison in found.items():
        for base, variations in comparison.variations().items():
            results.setdefault(base, {})[metric] = variations
    for base, by_metric in results.items():
        labels = list(next(iter(by_metric.values())))
        headings = ["variation"]
        for metric in by_metric:
            headings += [f"{metric.name} ÷ {base} [95 %]", "p (Holm)", "verdict"]
        cells = []
        for label in labels:
            line = [label.removeprefix(f"{base} ")]
            for metric in by_metric:
                line += _verdict_cells(by_metric[metric][label])
            cells.append(line)
        caption = f"Each variation against {base} with its defaults, tests corrected over this table."
        caption += " " + _blind_note(next(iter(by_metric.values())))
        part.blocks.append(Table(f"Variations of {base}", headings, cells, caption.strip()))
        if any(r for table in by_metric.values() for r in table.values()):
            short = {
                m: {label.removeprefix(f"{base} "): r for label, r in table.items()}
                for m, table in by_metric.items()
            }
            file = figures.forest_figure(
                {"": (list(next(iter(short.values()))), short)}, folder / f"sensitivity_{base}.png"
            )
            part.blocks.append(Picture(file, f"Variations of {base}", f"Error divided by that of {base}."))
    return part


def _coverage(found: Mapping[Metric, Comparison], folder: Path) -> Part:
    part = Part("Coverage against error")
    by_metric = {metric: correlations(comparison) for metric, comparison in found.items()}
    names = list(dict.fromkeys(c.name for known in by_metric.values() for c in known))
    if not names:
        return part
    headings = ["coverage figure", *(f"ρ with {metric.name} [95 %]" for metric in by_metric)]
    cells = []
    for name in names:
        of_name: list[Correlation | None] = [
            next((c for c in known if c.name == name), None) for known in by_metric.values()
        ]
        cells.append([figures.coverage_name(name), *(_rho(c) for c in of_name)])
    caption = (
        "Spearman's rank correlation over the selections of equal budget, averaged over the budgets; "
        "negative: more of it goes with less error. The interval draws selectors, and selections within them."
    )
    for metric, known in by_metric.items():
        if known:
            file = figures.coverage_figure(known[0], found[metric].budgets, metric, folder / "coverage.png")
            title = f"{metric.name} against {figures.coverage_name(known[0].name)}"
            text = (
                "Each mark a selection, mean over initial weights; the figure of the strongest correlation."
            )
            part.blocks.append(Picture(file, title, text))
            break
    part.blocks.append(Table("Rank correlations", headings, cells, caption))
    return part


def _rho(found: Correlation | None) -> str:
    if found is None:
        return NOTHING
    mean = found.mean
    text = f"{mean.value:+.2f}"
    if mean.low is not None and mean.high is not None:
        text += f" [{mean.low:+.2f}, {mean.high:+.2f}]"
    return text.replace("-", "\N{MINUS SIGN}")


def _cost(study: Study) -> Part:
    kinds = ("selection", "training")
    cells = []
    for label, known in costs(study).items():
        line = [label]
        for kind in kinds:
            if kind not in known:
                line.append(NOTHING)
                continue
            median, least, most = known[kind]
            spread = f" ({seconds(least)} to {seconds(most)})" if least != most else ""
            line.append(seconds(median) + spread)
        cells.append(line)
    caption = (
        "Median (range) over seeds: selecting the largest budget, with the pool's descriptor in the cache, "
        "and one training."
    )
    headings = ["selector", "selection", "training"]
    return Part("Cost", blocks=[Table("Time", headings, cells, caption)] if cells else [])


def _settings(study: Study) -> Part:
    part = Part("How it was run")
    rows = [[key.replace("_", " "), plain(value)] for key, value in study.settings.items()]
    init = ", ".join(map(str, study.init_seeds))
    seeds = {len({c.selection_seed for c in study.cells if c.selector == s}) for s in study.selectors}
    numbers = [["budgets", ", ".join(map(str, study.budgets))], ["seeds of initial weights", init]]
    numbers.append(["selection seeds of a selector", " or ".join(map(str, sorted(seeds))) or NOTHING])
    part.blocks.append(Table("Settings", ["key", "value"], rows + numbers))
    failed = [cell for cell in study.cells if cell.status != "finished"]
    if failed:
        lines = [
            [
                c.selector,
                FULL if c.budget is None else str(c.budget),
                str(c.selection_seed),
                str(c.init_seed),
                c.status,
                _last_line(c.message),
            ]
            for c in failed[:MOST_MESSAGES]
        ]
        headings = ["selector", "budget", "selection seed", "init seed", "status", "message"]
        more = len(failed) - len(lines)
        part.blocks.append(
            Table("Trainings that failed", headings, lines, f"And {more} more." if more else "")
        )
    part.sentences += [
        f"Not counted, or to be looked at: {problem}" for problem in study.problems[:MOST_MESSAGES]
    ]
    return part


def _last_line(message: str) -> str:
    """What a traceback ends with."""
    return (message.strip().splitlines() or [""])[-1]


def summary_part(studies: Mapping[str, Study]) -> Part:
    """What learned, then rank, ratio and verdict of every selector on every pool."""
    learners = {str(s.settings.get("settings", {}).get("learner._target_")) for s in studies.values()}
    part = Part("All pools", [PROBE] if all(name.endswith(".RidgeProbe") for name in learners) else [])
    for metric in METRICS:
        found = {name: Comparison(study, metric.key) for name, study in studies.items()}
        found = {name: comparison for name, comparison in found.items() if comparison.has_values}
        for aware, kind in KINDS.items():
            table = _summary_table(found, aware, f"{kind}, {metric.name}")
            if table is not None:
                part.blocks.append(table)
    return part


def _summary_table(found: Mapping[str, Comparison], aware: bool, title: str) -> Table | None:
    columns: dict[str, dict[str, str]] = {}
    places: dict[str, list[int]] = {}
    for name, comparison in found.items():
        rows = [
            row for row in comparison.rows(aware) if row.against is not None and row.against.ratio is not None
        ]
        columns[name] = {}
        for place, row in enumerate(rows, start=1):
            if row.against is not None:
                failed = f", {row.failed} failed" if row.failed else ""
                columns[name][row.label] = (
                    f"{place}. {ratio(row.against.ratio)} {row.against.verdict or 'not tested'}{failed}"
                )
                places.setdefault(row.label, []).append(place)
    if not places:
        return None
    labels = sorted(places, key=lambda label: (sum(places[label]) / len(places[label]), label))
    cells = [
        [
            label,
            figure(sum(places[label]) / len(places[label]), 2),
            *(c.get(label, NOTHING) for c in columns.values()),
        ]
        for label in labels
    ]
    caption = f"Place, error divided by that of {BASELINE} [95 % interval], verdict after Holm's correction."
    return Table(title, ["selector", "mean place", *columns], cells, caption)
