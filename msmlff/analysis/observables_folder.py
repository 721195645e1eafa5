"""Observables on disk: observables.json; in observables/ a table of curves for each, first and last frame."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.analysis.curve import Curve
from msmlff.analysis.observe import OBSERVABLES
from msmlff.analysis.observed import NamedCurve, Observed, Quantity
from msmlff.analysis.trajectory import Trajectory
from msmlff.data.configuration import Configuration
from msmlff.data.formats import read_frames, write_frames
from msmlff.errors import InputError

JSON, CURVES, STRUCTURES = "observables.json", "observables", "structures.extxyz"
FORMAT, SCHEMA = "msmlff-observables", 1


@dataclass(frozen=True)
class ObservablesFolder:
    """What ``msmlff evaluate`` found.

    Attributes:
        about: of the trajectory: source, frames, atoms, formula, interval_fs; of several also replicas.
        found: observables by name.
        reference: those of the reference by name; empty where there is none.
        about_reference: as ``about``, or {}.
        errors: measures of ``observable_errors`` by name, or {}.
        missing: reasons by the name of observables that are not to be had.
        settings: of the observables, JSON-able.
        structures: frames to look at, with a word in their info "label".
    """

    about: Mapping[str, Any]
    found: Mapping[str, Observed]
    reference: Mapping[str, Observed] = field(default_factory=dict)
    about_reference: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    structures: list[Configuration] = field(default_factory=list)


def describe(trajectory: Trajectory, *others: Trajectory) -> dict[str, Any]:
    """What a reader wants to know of a trajectory, or several of one system, JSON-able.

    Of several: all their sources and frames, and as "replicas" the frames of each.
    """
    every = (trajectory, *others)
    return {
        "source": ", ".join(dict.fromkeys(t.source for t in every)),
        "frames": sum(map(len, every)),
        "atoms": len(trajectory.numbers),
        "formula": trajectory.frames()[0].to_ase().get_chemical_formula(empirical=True),
        "interval_fs": trajectory.interval_fs,
        **({"replicas": [len(t) for t in every]} if others else {}),
    }


def save_observables(content: ObservablesFolder, folder: Path) -> None:
    """Write observables.json; observables/NAME.csv for each observable with curves, structures.extxyz.

    Those of an earlier evaluation are replaced.
    """
    curves = folder / CURVES
    curves.mkdir(parents=True, exist_ok=True)
    (folder / JSON).unlink(missing_ok=True)
    for name in OBSERVABLES:
        (curves / f"{name}.csv").unlink(missing_ok=True)
    document = {
        "format": FORMAT,
        "schema": SCHEMA,
        "trajectory": dict(content.about),
        "reference": dict(content.about_reference),
        "errors": {name: _finite(value) for name, value in content.errors.items()},
        "observables": {name: _plain(value) for name, value in content.found.items()},
        "reference_observables": {name: _plain(value) for name, value in content.reference.items()},
        "missing": dict(content.missing),
        "settings": dict(content.settings),
    }
    for name, observed in content.found.items():
        other = content.reference.get(name)
        if observed.curves or (other is not None and other.curves):
            _write_curves(curves / f"{name}.csv", observed, other)
    write_frames(curves / STRUCTURES, content.structures)
    temporary = folder / f".{JSON}.{os.getpid()}"
    temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / JSON)  # last: whoever finds it finds all


def load_observables(folder: Path) -> ObservablesFolder | None:
    """Read what ``save_observables`` wrote; None where there is none.

    Raises:
        InputError: a damaged or foreign file.
    """
    path = folder / JSON
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT or document["schema"] != SCHEMA:
            raise InputError(f"{path}: schema {document['schema']} of {document['format']}, not {SCHEMA}")
        curves = {name: _read_curves(folder / CURVES / f"{name}.csv") for name in document["observables"]}
        return ObservablesFolder(
            about=document["trajectory"],
            found={n: _observed(v, curves[n][0]) for n, v in document["observables"].items()},
            reference={
                n: _observed(v, curves.get(n, ({}, {}))[1])
                for n, v in document["reference_observables"].items()
            },
            about_reference=document["reference"],
            errors={name: math.nan if v is None else v for name, v in document["errors"].items()},
            missing=document["missing"],
            settings=document["settings"],
            structures=list(read_frames(folder / CURVES / STRUCTURES)),
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); evaluate again") from None


def _plain(observed: Observed) -> dict[str, Any]:
    return {
        "quantities": {
            name: {
                "value": _finite(q.value),
                "error": _finite(q.error),
                "unit": q.unit,
                **({"over_replicas": q.over_replicas} if math.isfinite(q.over_replicas) else {}),
            }
            for name, q in observed.quantities.items()
        },
        "curves": {
            name: {"x": c.x_title, "y": c.y_title, "marks": list(c.marks)}
            for name, c in observed.curves.items()
        },
        "notes": list(observed.notes),
    }


def _observed(content: Mapping[str, Any], curves: Mapping[str, Curve]) -> Observed:
    return Observed(
        {
            name: Quantity(
                _number(q["value"]), _number(q["error"]), q["unit"], _number(q.get("over_replicas"))
            )
            for name, q in content["quantities"].items()
        },
        {
            name: NamedCurve(curves[name], c["x"], c["y"], tuple(c["marks"]))
            for name, c in content["curves"].items()
        },
        tuple(content["notes"]),
    )


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _write_curves(path: Path, observed: Observed, reference: Observed | None) -> None:
    """Rows (of, curve, x, y, error), ``of`` the trajectory or the reference; the headings have the units."""
    titles = next(iter((observed.curves or (reference or observed).curves).values()))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("of", "curve", titles.x_title, titles.y_title, "error"))
        parts = (("trajectory", observed), ("reference", reference))
        for of, part in parts:
            for name, named in part.curves.items() if part is not None else ():
                writer.writerows(_rows(of, name, named.curve))
    temporary.replace(path)


def _rows(of: str, name: str, curve: Curve) -> Iterable[tuple[str, ...]]:
    for x, y, error in zip(curve.x, curve.y, curve.error, strict=True):
        yield of, name, f"{x:.10g}", f"{y:.10g}", f"{error:.4g}" if np.isfinite(error) else ""


def _read_curves(path: Path) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Curves of the trajectory and of the reference by name."""
    if not path.is_file():
        return {}, {}
    points: dict[str, dict[str, list[tuple[float, float, float]]]] = {"trajectory": {}, "reference": {}}
    with path.open(newline="", encoding="utf-8") as stream:
        rows = csv.reader(stream)
        next(rows)
        for of, name, x, y, error in rows:
            point = float(x), float(y), float(error) if error else math.nan
            points[of].setdefault(name, []).append(point)
    ours, theirs = (
        {name: Curve(*np.array(values).T) for name, values in points[of].items()} for of in points
    )
    return ours, theirs
