"""What a comparison says in words: who wins, what is tied, what the numbers cannot tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msmlff.analysis.comparison import ALPHA, Against, Bound, Comparison, Estimate, Row
from msmlff.analysis.comparison_cells import BASELINE
from msmlff.analysis.comparison_figures import Metric
from msmlff.analysis.tables import NOTHING, figure

CPD = "cpd"


def findings(comparison: Comparison, metric: Metric, label_aware: bool) -> list[str]:
    """Sentences about the label-free or the label-aware selectors, generated from the numbers."""
    rows = [row for row in comparison.rows(label_aware) if row.label != BASELINE]
    kind = "label-aware" if label_aware else "label-free"
    ranked = [row for row in rows if row.against is not None and row.against.ratio is not None]
    if not ranked:
        return [f"No {kind} selector can be compared with {BASELINE} yet ({metric.name})."]
    best = ranked[0]
    said = [_leader(best, len(ranked), kind, metric), _verdicts(rows)]
    if len(ranked) > 1:
        said.append(_against_best(comparison, best, [row.label for row in ranked[1:]]))
    if not label_aware:
        said += _cpd(comparison, ranked)
    said += _limits([row.against for row in rows], BASELINE)
    return [sentence for sentence in said if sentence]


def _leader(best: Row, count: int, kind: str, metric: Metric) -> str:
    against = best.against
    if against is None or against.ratio is None:
        return ""
    text = f"Of {count} {kind} selectors" if count > 1 else f"The only {kind} selector"
    text += f", {best.label} has the lowest {metric.name}" if count > 1 else f" is {best.label}"
    text += f": {ratio(against.ratio)} of {BASELINE}'s over the budgets"
    if against.verdict == "better":
        return f"{text}, a significant gain (p = {p_value(against.p)} after Holm's correction)."
    if against.verdict == "worse":
        return f"{text}, significantly worse than {BASELINE} (p = {p_value(against.p)})."
    if against.verdict == "tie":
        return f"{text}, which is a tie with {BASELINE} (p = {p_value(against.p)} after Holm's correction)."
    return f"{text}; too few selections for a test."


def _verdicts(rows: Sequence[Row]) -> str:
    groups: dict[str, list[str]] = {"better": [], "tie": [], "worse": [], "": []}
    for row in rows:
        groups[row.against.verdict if row.against else ""].append(row.label)
    words = {
        "better": f"better than {BASELINE}",
        "tie": f"tied with {BASELINE}",
        "worse": f"worse than {BASELINE}",
        "": "not tested",
    }
    parts = [f"{words[verdict]}: {', '.join(names)}" for verdict, names in groups.items() if names]
    text = "; ".join(parts) + "."
    if not groups["better"]:
        text += f" No selector is better than {BASELINE}."
    return text[0].upper() + text[1:]


def _against_best(comparison: Comparison, best: Row, others: Sequence[str]) -> str:
    results = comparison.against(others, best.label)
    behind = [label for label, r in results.items() if r and r.verdict == "worse"]
    tied = [label for label, r in results.items() if r and r.verdict == "tie"]
    if not behind and not tied:
        return ""
    smallest = [r.smallest_p for r in results.values() if r and r.smallest_p is not None]
    if min(smallest) >= ALPHA:
        return (
            f"What separates the others from {best.label} cannot be told: with so few selections no "
            f"difference could be significant after the correction for {len(smallest)} tests."
        )
    text = f"Against {best.label} itself, "
    if behind:
        text += f"{', '.join(behind)} {'are' if len(behind) > 1 else 'is'} significantly worse"
    if tied:
        text += f"{'; ' if behind else ''}{', '.join(tied)} {'are' if len(tied) > 1 else 'is'} tied"
    return text + "."


def _cpd(comparison: Comparison, ranked: Sequence[Row]) -> list[str]:
    """Where CPD stands, and in plain words if it does not win."""
    labels = [row.label for row in ranked]
    if CPD not in labels:
        return []
    place = labels.index(CPD) + 1
    row = ranked[place - 1]
    if row.against is None or row.against.ratio is None:
        return []
    stands = {"better": "better than", "worse": "worse than", "tie": "tied with", "": "not tested against"}
    verdict = f"{stands[row.against.verdict]} {BASELINE}"
    stand = f"{ratio(row.against.ratio)}, {verdict}"
    if place > 1:
        first = comparison.against([CPD], labels[0])[CPD]
        text = f"CPD does not win: it is number {place} of {len(labels)} ({stand})"
        if first is not None and first.ratio is not None:
            text += f", with {ratio(first.ratio)} of the error of {labels[0]}"
            if first.p is not None:
                text += f" (p = {p_value(first.p)} for this pair alone)"
        return [text + "."]
    if row.against.verdict == "better":
        return [f"CPD has the lowest error ({stand})."]
    return [f"CPD has the lowest error but does not win: it is {verdict} ({ratio(row.against.ratio)})."]


def _limits(results: Sequence[Against | None], other: str) -> list[str]:
    """What the number of selections forbids to conclude."""
    tested = [r for r in results if r is not None and r.smallest_p is not None]
    blind = [r for r in tested if r.smallest_p is not None and r.smallest_p >= ALPHA]
    said = []
    if blind:
        said.append(
            f"For {len(blind)} of {len(tested)} selectors the selections are too few for any difference "
            f"from {other} to be significant after the correction for {len(tested)} tests; "
            "their ties say nothing."
        )
    budgets = {r.budgets for r in tested}
    if len(budgets) > 1:
        said.append("Not all selectors were compared over the same budgets: the study is not complete.")
    return said


def estimate(value: Estimate | None, digits: int = 3) -> str:
    """A figure with its interval: "0.934 [0.904, 0.964]"."""
    if value is None:
        return NOTHING
    text = figure(value.value, digits)
    if value.low is None or value.high is None:
        return text
    return f"{text} [{figure(value.low, digits)}, {figure(value.high, digits)}]"


def ratio(value: Estimate | None, digits: int = 3) -> str:
    """A ratio near 1 with its interval, three decimals whatever its size: "1.025 [0.991, 1.060]"."""
    if value is None:
        return NOTHING
    text = f"{value.value:.{digits}f}"
    if value.low is None or value.high is None:
        return text
    return f"{text} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def p_value(p: float | None) -> str:
    """A p value to two or three digits."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def percent(bound: Bound | None) -> str:
    """A share as percent, with the sign of a bound; a proper minus sign."""
    if bound is None:
        return NOTHING
    value = f"{round(100 * bound.value)}"
    if bound.to is not None and f"{round(100 * bound.to)}" != value:
        value += f" to {round(100 * bound.to)}"
    number = value.replace("-", "\N{MINUS SIGN}")
    return f"{bound.sign + ' ' if bound.sign else ''}{number} %"


def seconds(value: float) -> str:
    """A time with its unit."""
    if value < 0.0995:
        return f"{1e3 * value:.0f} ms"
    return f"{figure(value)} s" if value < 100 else f"{figure(value / 60)} min"


def plain(value: object) -> str:
    """A JSON value as a reader would write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(plain(item) for item in value) + "]"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
