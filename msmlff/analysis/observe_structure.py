"""Observables of structure: distances, angles, coordination, order, molecules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from msmlff.analysis.blocking import block_error
from msmlff.analysis.bond_order import bond_order
from msmlff.analysis.curve import Curve
from msmlff.analysis.observed import NamedCurve, Observed, Quantity, Subject, elements, mean_of, symbols
from msmlff.analysis.pairs import image_radius
from msmlff.analysis.structure import (
    adfs,
    coordination_numbers,
    element_pairs,
    first_minimum,
    molecular_fraction,
    rdfs,
    running_coordination,
)
from msmlff.errors import InputError

DEFAULT_RADIUS = 10.0  # Å, no rdf goes farther on its own
SHELL_RADIUS = 6.0  # Å, the first shell of neighbours ends below it
TRIPLES = 8  # of elements, whose angles are shown


def observe_rdf(subject: Subject) -> Observed:
    t = subject.trajectory
    kinds = element_pairs(t.numbers)
    pairs: list[tuple[int, int] | None] = [None, *(kinds if len(kinds) > 1 else [])]
    functions = rdfs(t.frames(), radius_of(subject, "rdf"), subject.settings.bins, pairs)
    curves = {
        "all" if pair is None else symbols(*pair): NamedCurve(g, "r / Å", "g(r)")
        for pair, g in functions.items()
    }
    quantities = {}
    for name, named in curves.items():
        peak = int(np.argmax(named.curve.y))
        quantities[f"highest peak of {name}"] = Quantity(float(named.curve.x[peak]), math.nan, "Å")
    return Observed(quantities, curves)


def observe_adf(subject: Subject) -> Observed:
    t, s = subject.trajectory, subject.settings
    found, angles = adfs(t.frames(), s.angle_bins, s.cutoff)
    if not found:
        raise InputError("adf: no atom has two bonds; set settings.cutoff (Å), below which pairs are bonds")
    near = f"{s.cutoff:g} Å" if s.cutoff else "1.25 times the sum of the covalent radii"
    notes = [f"Angles between bonds of an atom; a bond is a pair closer than {near}."]
    triples = [triple for triple in found if triple is not None]
    shown = triples[:TRIPLES] if len(triples) > 1 else []
    if len(shown) < len(triples) > 1:
        share = sum(angles[triple] for triple in shown) / angles[None]
        notes.append(
            f"Of {len(triples)} triples of elements the {TRIPLES} with the most angles, {100 * share:.0f} %."
        )
    quantities, curves = {}, {}
    for triple in (None, *shown):
        curve, name = found[triple], "all" if triple is None else symbols(*triple)
        mean = float(np.sum(curve.x * curve.y) * 180.0 / s.angle_bins)
        of = "" if triple is None else f" of {name}"
        quantities[f"mean angle{of}"] = Quantity(mean, math.nan, "°")
        curves[name] = NamedCurve(curve, "angle / °", "density / 1/°")
    return Observed(quantities, curves, tuple(notes))


def observe_coordination(subject: Subject) -> Observed:
    t, s = subject.trajectory, subject.settings
    frames = t.frames()
    quantities, curves, notes = {}, {}, []
    functions = _ordered_rdfs(subject)
    inverse_volume = float(np.mean(1.0 / t.volume))
    for pair, g in functions.items():
        name = symbols(*pair)
        running = running_coordination(g, np.sum(t.numbers == pair[1]) * inverse_volume)
        cutoff = s.cutoff or (first_minimum(g) if subject.shells is None else subject.shells[pair])
        marks = () if cutoff is None else (cutoff,)
        # the running number counts to the outer edge of each shell
        x = g.x + 0.5 * (g.x[1] - g.x[0])
        nothing = np.full(len(x), np.nan)
        curves[name] = NamedCurve(Curve(x, running, nothing), "r / Å", "neighbours closer than r", marks)
        if cutoff is None:
            notes.append(f"{name}: g has no first shell that ends; set settings.cutoff.")
            continue
        per_frame = np.array([n.mean() for n in coordination_numbers(frames, cutoff, pair)])
        quantities[f"{name} within {cutoff:.2f} Å"] = mean_of(per_frame, "")
    return Observed(quantities, curves, tuple(notes))


def _ordered_rdfs(subject: Subject) -> dict[tuple[int, int], Curve]:
    """g by (element, neighbour), far enough for a first shell."""
    kinds = elements(subject.trajectory)
    ordered = [(a, b) for a in kinds for b in kinds]
    s = subject.settings
    # images are counted as neighbours, so a small cell does not keep the first shell from being seen
    reach = s.r_max or max(radius_of(subject, "coordination"), SHELL_RADIUS)
    functions = rdfs(subject.trajectory.frames(), reach, s.bins, ordered)
    return {pair: functions[pair] for pair in ordered}


def first_shells(subjects: Sequence[Subject]) -> dict[tuple[int, int], float | None]:
    """Å, the first minimum of the mean g of several trajectories, by (element, neighbour), or None.

    Args:
        subjects: of the same atoms, with the same ``settings`` and ``radius``.
    """
    each = [_ordered_rdfs(subject) for subject in subjects]
    shells = {}
    for pair, g in each[0].items():
        mean = np.mean([one[pair].y for one in each], axis=0)
        error = np.sqrt(np.sum([one[pair].error ** 2 for one in each], axis=0)) / len(each)
        shells[pair] = first_minimum(replace(g, y=mean, error=error))
    return shells


def observe_order(subject: Subject) -> Observed:
    t, s = subject.trajectory, subject.settings
    frames = t.frames()
    chosen: dict[str, Any] = {"nearest": s.nearest} if s.cutoff is None else {"cutoff": s.cutoff}
    if s.cutoff is not None:
        where = f"those within {s.cutoff:g} Å"
    elif s.nearest is not None:
        where = f"the {s.nearest} nearest. Those as far as the last of them count, too"
    else:
        where = "those whose solid angles fill a sphere (van Meel et al. 2012)"
    quantities, curves = {}, {}
    for degree in s.degrees:
        for averaged in (False, True) if s.averaged else (False,):
            found = bond_order(frames, degree, averaged=averaged, **chosen)
            name = f"{'averaged ' if averaged else ''}q{degree}"
            per_frame = np.array([np.nanmean(o.q) if np.isfinite(o.q).any() else np.nan for o in found])
            if not np.isfinite(per_frame).any():
                raise InputError(f"order: no atom has a neighbour within settings.cutoff={s.cutoff} Å")
            quantities[name] = mean_of(per_frame, "")
            quantities[name.replace("q", "w")] = mean_of(np.array([np.nanmean(o.w) for o in found]), "")
            values = np.stack([np.histogram(o.q, 100, (0.0, 1.0), density=True)[0] for o in found])
            centres = 0.01 * (np.arange(100) + 0.5)
            curve = Curve(centres, values.mean(axis=0), block_error(values))
            if averaged == s.averaged:
                curves[name] = NamedCurve(curve, "order parameter of an atom", "density")
            if not averaged:
                quantities[f"global Q{degree}"] = mean_of(np.array([o.global_q for o in found]), "")
    return Observed(quantities, curves, (f"Neighbours of an atom are {where}.",))


def observe_molecular_fraction(subject: Subject) -> Observed:
    t = subject.trajectory
    if not (t.numbers == 1).all():
        raise InputError(
            f"molecular_fraction: {t.source or 'the trajectory'} holds other elements than hydrogen, for "
            "which it is defined"
        )
    values = molecular_fraction(t.frames())
    x = t.time_fs if t.interval_fs is not None else np.arange(len(t), dtype=float)
    title = "time / fs" if t.interval_fs is not None else "frame"
    curve = Curve(x, values, np.full(len(t), np.nan))
    curves = {"frames": NamedCurve(curve, title, "molecular fraction")} if len(t) > 1 else {}
    return Observed({"molecular fraction": mean_of(values, "")}, curves)


def radius_of(subject: Subject, what: str) -> float:
    if subject.settings.r_max is not None:
        return subject.settings.r_max
    if subject.radius is not None:
        return subject.radius
    radius = image_radius(subject.trajectory.frames())
    if not math.isfinite(radius):
        raise InputError(
            f"{what}: {subject.trajectory.source or 'the trajectory'} is not periodic; a density needs a cell"
        )
    return min(radius, DEFAULT_RADIUS)
