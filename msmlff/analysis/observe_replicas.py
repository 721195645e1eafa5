"""Observables of several trajectories of one system: their means, and errors from their scatter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import binomtest

from msmlff.analysis.curve import Curve
from msmlff.analysis.observe import OBSERVABLES, check_names, observe
from msmlff.analysis.observe_motion import FAILED, STABLE
from msmlff.analysis.observe_structure import first_shells, radius_of
from msmlff.analysis.observed import NamedCurve, Observed, Quantity, Subject
from msmlff.errors import InputError

VOLUMES = 0.02  # relative spread of the mean volumes from which on a reader is told


def observe_replicas(
    subjects: Mapping[str, Subject], names: Sequence[str] | None = None, lost: Sequence[str] = ()
) -> tuple[dict[str, Observed], dict[str, str]]:
    """The observables of each trajectory, averaged; all trajectories weigh alike.

    A quantity has the mean, as ``error`` the standard error of that mean by the blocks of each trajectory,
    and as ``over_replicas`` that by their scatter: std / sqrt(n). Independent trajectories know better than
    blocks what they do not share. A curve has the standard error over the trajectories where there are two
    or more; curves on different points are compared where all are known. What a trajectory does not allow is
    averaged over the others, with a note; so is, but for stability, all of a trajectory that ended before
    half of the longest one's time. The mean of ``stable`` is the share that survives.

    Args:
        subjects: one or more, by the words that notes call them.
        names: see ``observe``.
        lost: what notes call further runs, which failed before the first frame that is looked at: they count
            for stability alone, as lost at once.

    Returns:
        (observables by name, reasons by the name of those that no trajectory allows).

    Raises:
        InputError: an unknown name, one asked for that no trajectory allows, or trajectories of different
            atoms.
    """
    check_names(names) if names is not None else None
    if len(subjects) == 1 and not lost:
        return observe(next(iter(subjects.values())), names)
    _check_alike(subjects)
    early = ended_early(subjects)
    subjects = _with_common_choices(subjects, names, early)
    each = {label: _observed(s, names, early.get(label)) for label, s in subjects.items()}
    found, missing = {}, {}
    for name in OBSERVABLES if names is None else names:
        there = {label: one[name] for label, (one, _) in each.items() if name in one}
        reasons = {label: without[name] for label, (_, without) in each.items() if name in without}
        if there and name == "stability":
            there |= _gone(there, lost)
            mean = _mean(name, there, reasons)
            found[name] = replace(mean, notes=_shares(there) + mean.notes)
        elif there:
            found[name] = _mean(name, there, reasons)
        elif names is not None:
            raise InputError(next(iter(reasons.values())))
        else:
            missing[name] = next(iter(reasons.values()))
    return found, missing


def mean_errors(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of the measures of ``possible_errors``, of those that all trajectories have."""
    common = [name for name in each[0] if all(name in one for one in each)] if each else []
    return {name: float(np.mean([one[name] for one in each])) for name in common}


def _check_alike(subjects: Mapping[str, Subject]) -> None:
    """Raises InputError where the trajectories are not of the same atoms."""
    (first, one), *others = subjects.items()
    for label, other in others:
        a, b = one.trajectory, other.trajectory
        if not np.array_equal(np.sort(a.numbers), np.sort(b.numbers)) or not np.array_equal(a.pbc, b.pbc):
            raise InputError(
                f"{label} holds other atoms (or periodic directions) than {first}: an average is over runs "
                "of one system; write replica=K, or give trajectories of one system"
            )


def _with_common_choices(
    subjects: Mapping[str, Subject], names: Sequence[str] | None, early: Mapping[str, str]
) -> dict[str, Subject]:
    """The reach of g and the ends of first shells are those of all together that did not end early."""
    radii, deciding = [], [label for label in subjects if label not in early]
    for label in deciding:
        try:
            radii.append(radius_of(subjects[label], "rdf"))
        except InputError:
            return dict(subjects)
    common = {label: replace(s, radius=min(radii)) for label, s in subjects.items()}
    if next(iter(subjects.values())).settings.cutoff or (names is not None and "coordination" not in names):
        return common
    shells = first_shells([common[label] for label in deciding])
    return {label: replace(s, shells=shells) for label, s in common.items()}


def ended_early(subjects: Mapping[str, Subject]) -> dict[str, str]:
    """What is to be said of those that ended before half of the longest one's time, or of its frames where
    the time between them is not known."""
    lengths, unit = {label: float(len(s.trajectory)) for label, s in subjects.items()}, "frames"
    intervals = [s.trajectory.interval_fs for s in subjects.values()]
    if all(intervals):
        spans = zip(lengths.items(), intervals, strict=True)
        lengths, unit = {label: n * float(dt or 0.0) for (label, n), dt in spans}, "fs"
    most = max(lengths.values())
    return {label: f"it ended after {n:g} of {most:g} {unit}" for label, n in lengths.items() if 2 * n < most}


def _observed(
    subject: Subject, names: Sequence[str] | None, early: str | None
) -> tuple[dict[str, Observed], dict[str, str]]:
    """What of the names, or of all, the trajectory allows, and the reasons of the rest."""
    if early is not None:
        names = list(OBSERVABLES) if names is None else names
        stability = [name for name in names if name == "stability"]
        found, missing = _observed(subject, stability, None)
        return found, missing | {name: early for name in names if name not in stability}
    if names is None:
        return observe(subject)
    found, missing = {}, {}
    for name in names:
        try:
            found |= observe(subject, [name])[0]
        except InputError as error:
            missing[name] = str(error)
    return found, missing


def _mean(name: str, each: Mapping[str, Observed], missing: Mapping[str, str]) -> Observed:
    """One observable of several trajectories as one."""
    keys = list(dict.fromkeys(key for o in each.values() for key in o.quantities))
    quantities, notes = {}, []
    for key in keys:
        known = [o.quantities[key] for o in each.values() if key in o.quantities]
        quantities[key] = _mean_quantity(known)
        if len(known) < len(each):
            notes.append(f"{key}: of {len(known)} of {len(each)} replicas.")
    notes += [f"Without {label}: {reason}" for label, reason in missing.items()]
    curves = {}
    if name != "equation_of_state":  # its points are frames, not a function
        for key in dict.fromkeys(key for o in each.values() for key in o.curves):
            curves[key] = _mean_curve([o.curves[key] for o in each.values() if key in o.curves], name)
    shared = [n for n in next(iter(each.values())).notes if all(n in o.notes for o in each.values())]
    own = [f"{label}: {n}" for label, o in each.items() for n in o.notes if n not in shared]
    own.sort(key=lambda note: FAILED not in note)  # those first
    return Observed(quantities, curves, (*shared, *notes, *own))


def _gone(judged: Mapping[str, Observed], lost: Sequence[str]) -> dict[str, Observed]:
    """The stability of runs without a frame: lost after 0 fs, by all definitions that judged the others."""
    keys = {k: q.unit for o in judged.values() for k, q in o.quantities.items() if not k.endswith("largest")}
    note = f"{FAILED} before the first frame that is looked at."
    return {
        label: Observed({key: Quantity(0.0, math.nan, unit) for key, unit in keys.items()}, {}, (note,))
        for label in lost
    }


def _shares(each: Mapping[str, Observed]) -> tuple[str, ...]:
    """How many survive, and the range of their share: the scatter of all or none says nothing."""
    notes = []
    for key in dict.fromkeys(k for o in each.values() for k in o.quantities if k.endswith(f": {STABLE}")):
        known = [o.quantities[key].value for o in each.values() if key in o.quantities]
        low, high = binomtest(round(sum(known)), len(known)).proportion_ci(0.95)
        notes.append(
            f"{key}: {sum(known):.0f} of {len(known)} replicas, a share between {low:.2f} and {high:.2f} "
            "with 95 % (Clopper, Pearson 1934)."
        )
    return tuple(notes)


def _mean_quantity(each: Sequence[Quantity]) -> Quantity:
    values, errors = np.array([q.value for q in each]), np.array([q.error for q in each])
    n = len(each)
    scatter = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    blocks = float(np.sqrt(np.sum(errors**2))) / n
    return Quantity(float(values.mean()), blocks, each[0].unit, scatter)


def _mean_curve(each: Sequence[NamedCurve], name: str) -> NamedCurve:
    curves = [named.curve for named in each]
    x = curves[0].x
    if not all(np.array_equal(x, c.x) for c in curves):
        # beyond its ends a histogram is zero, other functions are not known
        outside = name == "pressure"
        edge, other = (min, max) if outside else (max, min)
        low, high = edge(float(c.x[0]) for c in curves), other(float(c.x[-1]) for c in curves)
        x = np.linspace(low, high, min(len(c.x) for c in curves))
        zero = 0.0 if outside else None
        curves = [
            Curve(x, *(np.interp(x, c.x, values, zero, zero) for values in (c.y, c.error))) for c in curves
        ]
    y = np.stack([c.y for c in curves])
    error = curves[0].error if len(y) == 1 else y.std(axis=0, ddof=1) / math.sqrt(len(y))
    marks = tuple(sorted({mark for named in each for mark in named.marks}))
    return replace(each[0], curve=Curve(x, y.mean(axis=0), error), marks=marks)


def volume_notes(subjects: Mapping[str, Subject]) -> list[str]:
    """A sentence where the mean volumes differ by more than runs of one state do."""
    volumes = [float(s.trajectory.volume.mean()) for s in subjects.values() if s.trajectory.pbc.all()]
    if len(volumes) < 2 or max(volumes) <= (1.0 + VOLUMES) * min(volumes):
        return []
    return [
        f"The mean volumes of the replicas go from {min(volumes):.4g} to {max(volumes):.4g} Å³: averages "
        "over different states; write replica=K for one."
    ]
