"""What stands beside the observables of a trajectory: those of a reference, and errors against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from msmlff.analysis.observable_errors import matched, possible_errors
from msmlff.analysis.observables_folder import describe
from msmlff.analysis.observables_page import ERROR_NAMES, title_of
from msmlff.analysis.observe import observe
from msmlff.analysis.observe_replicas import ended_early, mean_errors
from msmlff.analysis.observe_state import kinetic_temperature
from msmlff.analysis.observed import Observed, Subject
from msmlff.analysis.trajectory import Trajectory
from msmlff.errors import InputError


@dataclass
class Beside:
    """What is known of a reference, and how far trajectories are from it; see ObservablesFolder."""

    found: dict[str, Observed] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def beside_reference(reference: Subject, subjects: Mapping[str, Subject], names: Sequence[str]) -> Beside:
    """The observables of the names that the reference allows, and the errors of the trajectories against it.

    Args:
        reference: what the others are compared with.
        subjects: the trajectories, by what notes call them; those that ended early have no errors.
        names: of observables.
    """
    early = ended_early(subjects)
    late = {label: s for label, s in subjects.items() if label not in early}
    known = [kelvin for s in late.values() if (kelvin := kinetic_temperature(s)) is not None]
    other = replace(reference, lent_temperature=float(np.mean(known)) if known else None)
    beside = Beside(about=describe(reference.trajectory))
    for name in names:
        if name == "stability":
            continue
        try:
            beside.found |= observe(other, [name])[0]
        except InputError as error:  # the reference may hold less than the trajectory
            beside.missing[f"{title_of(name)} of the reference"] = str(error)
    try:
        _add_errors(beside, reference.trajectory, {label: s.trajectory for label, s in late.items()})
    except InputError as error:
        beside.missing["errors against the reference"] = str(error)
    return beside


def _add_errors(beside: Beside, reference: Trajectory, each: Mapping[str, Trajectory]) -> None:
    """Means of the measures that all trajectories allow, and why there are no others.

    Raises:
        InputError: a trajectory that allows none, as one of other atoms.
    """
    found = {label: possible_errors(reference, trajectory) for label, trajectory in each.items()}
    beside.errors = mean_errors([values for values, _ in found.values()])
    for label, (_, reasons) in found.items():
        for name, reason in reasons.items():
            measure = f"error against the reference, {ERROR_NAMES[name][0].partition(':')[0]}"
            beside.missing.setdefault(measure, reason if len(found) == 1 else f"{label}: {reason}")
    spans = [float(matched(reference, trajectory)[0].time_fs[-1]) for trajectory in each.values()]
    beside.about["compared_fs"] = spans
