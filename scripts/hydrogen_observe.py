"""What the dynamics of scripts/hydrogen_study.sh start from, and what is seen in them.

    python scripts/hydrogen_observe.py starts TEST_FRAMES FOLDER [--densities N] [--starts N] [--pool FRAMES]
    python scripts/hydrogen_observe.py observe MD_FOLDER LABELS

``starts`` writes FOLDER/starts.extxyz, frames of the test set at each density, and FOLDER/labels.json, what
the labels say of the test frames themselves and, with ``--pool``, of each pass of the source over the
densities that the pool's frames are of (by their ``source_index``). ``observe`` writes
MD_FOLDER/observed.json, a row a replica of ``msmlff simulate`` that began at those starts.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.analysis.blocking import block_error
from msmlff.analysis.dynamics import diffusion
from msmlff.analysis.observable_errors import rdf_error
from msmlff.analysis.structure import molecular_fraction, rdf
from msmlff.analysis.thermodynamics import pressure, wigner_seitz_radius
from msmlff.analysis.trajectory_files import read_trajectory
from msmlff.data.configuration import Configuration
from msmlff.data.formats import read_frames, write_frames
from msmlff.errors import InputError
from msmlff.simulation.thermo import read_thermo

STARTS, LABELS, OBSERVED = "starts.extxyz", "labels.json", "observed.json"
R_MAX, BINS = 3.5, 100  # Å: half the largest cell; images are counted in the smaller ones
SKIPPED = 0.25  # of a run, before anything is averaged
STUCK = 0.5  # exponent of the MSD below which atoms do not diffuse: 1 in a liquid, 0 in a solid
PASS_GAP = 20  # frames of the source; within a pass neighbours are a few apart
FAILURES = ("exploded", "stuck", "structure lost")


def density_of(frame: Configuration) -> float:
    """g/cm³, as the pool writes it."""
    return float(frame.info["density_g_cm3"])


def make_starts(frames: Sequence[Configuration], densities: int, starts: int) -> list[Configuration]:
    """``starts`` frames at each density, far apart in the file; the densities evenly out of all.

    Args:
        densities: how many; 0: all.
    """
    known = sorted({density_of(frame) for frame in frames})
    count = min(densities or len(known), len(known))
    kept = [known[i] for i in np.linspace(0, len(known) - 1, count).round().astype(int)]
    chosen = []
    for density in kept:
        members = [frame for frame in frames if density_of(frame) == density]
        if len(members) < starts:
            raise SystemExit(f"{density} g/cm³ has {len(members)} test frames, fewer than --starts {starts}")
        places = np.linspace(0, len(members) - 1, starts).round().astype(int)
        chosen += [replace(members[i], info={"density_g_cm3": density}) for i in places]
    return chosen


def seen(frames: Sequence[Configuration], pressures: np.ndarray) -> dict[str, Any]:
    """Observables of frames at one density, as JSON takes them.

    Args:
        pressures: [any number] GPa, in time order; none where they are not known.
    """
    fractions = molecular_fraction(frames)
    curve = rdf(frames, R_MAX, BINS)
    return {
        "r_s": float(wigner_seitz_radius(frames[:1])[0]),
        "frames": len(frames),
        "pressure": _mean(pressures),
        "molecular_fraction": _mean(fractions),
        "r": curve.x.round(5).tolist(),
        "g": curve.y.round(5).tolist(),
    }


def _mean(series: np.ndarray) -> list[float] | None:
    """[mean, standard error by blocking]; None of nothing."""
    if not len(series) or not np.isfinite(series).all():
        return None
    return [float(series.mean()), float(block_error(series))]


def passes(frames: Sequence[Configuration]) -> list[list[Configuration]]:
    """Frames of one density by the pass of the source that made them: within one they stand together."""
    ordered = sorted(frames, key=lambda frame: int(frame.info["source_index"]))
    places = [int(frame.info["source_index"]) for frame in ordered]
    ends = [i + 1 for i, gap in enumerate(np.diff(places)) if gap > PASS_GAP]
    return [ordered[a:b] for a, b in zip([0, *ends], [*ends, len(ordered)], strict=True)]


def labels_of(
    frames: Sequence[Configuration],
    densities: Sequence[float],
    kelvin: float,
    pool: Sequence[Configuration] = (),
) -> dict[str, Any]:
    """What the labels say of the test frames, and of the pool's passes: a row a density."""
    rows = []
    for density in densities:
        members = [frame for frame in frames if density_of(frame) == density]
        row = {"density": density, **_labels(members, kelvin)}
        own = [frame for frame in pool if density_of(frame) == density]
        rows.append(row | {"passes": [_labels(part, kelvin) for part in passes(own)] if own else []})
    return {"temperature": kelvin, "atoms": len(frames[0]), "densities": rows}


def _labels(frames: Sequence[Configuration], kelvin: float) -> dict[str, Any]:
    energy = float(np.mean([frame.energy / len(frame) for frame in frames]))
    return {**seen(frames, pressure(frames, kelvin)), "energy": energy}


def observe_replica(folder: Path, k: int, label: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """A row of observed.json: what was seen, or how it failed.

    Args:
        folder: of ``msmlff simulate``; k: the replica.
        label: the row of its density in labels.json.
        record: record.json of the simulation.
    """
    row: dict[str, Any] = {"replica": k, "density": label["density"], "r_s": label["r_s"], "failure": None}
    failed = folder / f"failed_{k}.extxyz"
    if failed.is_file():
        info = next(iter(read_frames(failed))).info
        return row | {"failure": "exploded", "reason": info["reason"], "failed_fs": info["time_fs"]}
    whole = read_trajectory(folder, replica=k)
    trajectory = whole[math.ceil(SKIPPED * len(whole)) :]
    thermo = read_thermo(folder / "thermo.csv")[k]
    kept = thermo["time_fs"] >= SKIPPED * record["time_fs"]
    row |= seen(trajectory.frames(), thermo["pressure_GPa"][kept])
    row["temperature"] = float(thermo["temperature_K"][kept].mean())
    row["rdf_error"] = rdf_error(np.array(row["r"]), np.array(label["g"]), np.array(row["g"]))
    moved = diffusion(trajectory, blocks=1)
    row["diffusion"], row["exponent"] = moved.value, moved.exponent
    if row["exponent"] < STUCK:
        row["failure"] = "stuck"
    elif row["rdf_error"] >= 100.0:
        row["failure"] = "structure lost"
    return row


def observe(folder: Path, labels: dict[str, Any]) -> None:
    """Write observed.json of an ended simulation; one that has not ended is an error."""
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    if record["status"] not in ("finished", "diverged"):
        raise SystemExit(
            f"{folder}: the simulation is {record['status']}; run scripts/hydrogen_study.sh again"
        )
    by_density = {row["density"]: row for row in labels["densities"]}
    starts = list(read_frames(folder / record["system"]))
    try:
        rows = [observe_replica(folder, k, by_density[density_of(s)], record) for k, s in enumerate(starts)]
    except InputError as error:
        raise SystemExit(f"{folder}: {error}") from None
    facts = ("timestep_fs", "steps", "temperature", "ensemble", "seconds_total", "atom_steps_per_second")
    content = {**{key: record.get(key) for key in facts}, "skipped": SKIPPED, "replicas": rows}
    temporary = folder / f".{OBSERVED}"
    temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
    temporary.replace(folder / OBSERVED)


def main() -> None:
    """One of the two commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    starts = commands.add_parser("starts")
    starts.add_argument("test", type=Path)
    starts.add_argument("folder", type=Path)
    starts.add_argument("--densities", type=int, default=0, help="0: all")
    starts.add_argument("--starts", type=int, default=1)
    starts.add_argument("--temperature", type=float, default=1000.0, help="K, of the ideal-gas pressure")
    starts.add_argument("--pool", type=Path, help="frames of the pool, with source_index")
    runs = commands.add_parser("observe")
    runs.add_argument("folder", type=Path)
    runs.add_argument("labels", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "observe":
        observe(arguments.folder, json.loads(arguments.labels.read_text(encoding="utf-8")))
        return
    frames = list(read_frames(arguments.test))
    chosen = make_starts(frames, arguments.densities, arguments.starts)
    densities = sorted({density_of(frame) for frame in chosen})
    pool = list(read_frames(arguments.pool)) if arguments.pool else []
    labels = labels_of(frames, densities, arguments.temperature, pool)
    (arguments.folder / LABELS).write_text(json.dumps(labels) + "\n", encoding="utf-8")
    write_frames(arguments.folder / STARTS, chosen)


if __name__ == "__main__":
    main()
