"""Physical checks, files, data card and pictures of the dense-hydrogen pool."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import msmlff
from msmlff.analysis.pairs import min_pair_distance
from msmlff.analysis.plots import plot_molecular_fraction, plot_pressure, plot_rdf_by_density
from msmlff.analysis.structure import molecular_fraction
from msmlff.analysis.thermodynamics import pressure
from msmlff.data.configuration import Configuration
from msmlff.data.formats import read_frames, write_frames

SIZE_LIMIT = 8 * 1024 * 1024  # bytes of the whole pool
DECIMALS = 6  # positions Å, forces eV/Å, energy eV


def ship(
    splits: dict[str, list[Configuration]],
    history: dict[str, Any],
    out: Path,
    pictures: Path | None,
    *,
    strict: bool,
) -> None:
    """Check the splits, write ``{split}.extxyz.gz`` and ``data_card.json`` to ``out`` and the pictures.

    Args:
        splits: labelled frames, in order of density and time.
        history: how they were made, for the data card.
        out: folder of the pool.
        pictures: folder of the pictures; None draws none.
        strict: stop where the data make no physical sense; otherwise only say so.
    """
    temperature = float(history["plan"]["temperature"])
    table = by_density(splits, temperature)
    problems = physical_problems(splits, table, history["plan"])
    if problems and strict:
        raise SystemExit("not shipped:\n  " + "\n  ".join(problems))
    out.mkdir(parents=True, exist_ok=True)
    for split, frames in splits.items():
        write_frames(out / f"{split}.extxyz.gz", [rounded(f) for f in frames], digits=DECIMALS)
    card = {**about(splits, history), "problems": problems, "by_density": table, "history": history}
    (out / "data_card.json").write_text(json.dumps(card, indent=1) + "\n")
    size = sum(p.stat().st_size for p in out.iterdir() if p.is_file())
    count = sum(map(len, splits.values()))
    print(f"{out}: {count} frames, {size / 1e6:.2f} MB; {len(problems)} problems {problems}", flush=True)
    if size > SIZE_LIMIT:
        raise SystemExit(f"{out} holds {size} bytes; at most {SIZE_LIMIT} may be shipped")
    for split, frames in splits.items():
        verify_file(out / f"{split}.extxyz.gz", frames)
    if pictures is not None:
        pool = splits["pool"]
        plot_rdf_by_density(pool, pictures / "dense_hydrogen_rdf.png")
        plot_molecular_fraction(pool, pictures / "dense_hydrogen_molecular_fraction.png")
        plot_pressure(pool, pictures / "dense_hydrogen_pressure.png", temperature)


def rounded(frame: Configuration) -> Configuration:
    """The frame as it is written: energy and stress with the digits that mean something, source forgotten."""
    assert frame.stress is not None
    return replace(frame, energy=round(frame.energy, DECIMALS), stress=np.round(frame.stress, 9), source="")


def by_density(splits: dict[str, list[Configuration]], temperature: float) -> list[dict[str, Any]]:
    """A row per density: means over the frames of all splits."""
    frames = [f for part in splits.values() for f in part]
    groups = sorted({f.group for f in frames})
    rows = []
    for group in groups:
        members = [f for f in frames if f.group == group]
        pressures = pressure(members, temperature)
        forces = np.concatenate([f.forces for f in members if f.forces is not None])
        rows.append(
            {
                "group": group,
                "density_g_cm3": members[0].info["density_g_cm3"],
                "frames": len(members),
                "pressure_GPa": round(float(pressures.mean()), 2),
                "pressure_std_GPa": round(float(pressures.std()), 2),
                "molecular_fraction": round(float(molecular_fraction(members).mean()), 4),
                "energy_per_atom_eV": round(float(np.mean([f.energy / len(f) for f in members])), 4),
                "force_rms_eV_A": round(float(np.sqrt((forces**2).mean())), 3),
                "shortest_pair_A": round(float(min_pair_distance(members).min()), 3),
                "kinetic_temperature_K": round(
                    float(np.mean([f.info["kinetic_temperature_K"] for f in members])), 1
                ),
            }
        )
    return rows


def physical_problems(
    splits: dict[str, list[Configuration]], table: list[dict[str, Any]], plan: dict[str, Any]
) -> list[str]:
    """What is wrong with the data, in words; empty when nothing is."""
    problems = []
    for split, frames in splits.items():
        expected = plan["splits"][split] * len(plan["densities"])
        if len(frames) != expected:
            problems.append(f"{split} has {len(frames)} frames instead of {expected}")
        shortest = min_pair_distance(frames)
        if shortest.min() < plan["min_distance"]:
            problems.append(f"{split}: a pair of {shortest.min():.3f} Å in frame {int(shortest.argmin())}")
    steps = np.diff([row["pressure_GPa"] for row in table])
    if (steps <= 0).any():
        where = [table[i + 1]["group"] for i in np.flatnonzero(steps <= 0)]
        problems.append(f"the mean pressure does not rise towards density {', '.join(where)}")
    for row in table:
        if abs(row["kinetic_temperature_K"] / plan["temperature"] - 1.0) > 0.1:
            problems.append(f"density {row['group']} has {row['kinetic_temperature_K']} K")
    return problems


def about(splits: dict[str, list[Configuration]], history: dict[str, Any]) -> dict[str, Any]:
    """What the data are: counts, method, units, versions."""
    return {
        "name": "dense_hydrogen",
        "licence": "MIT, as the package",
        "frames": {split: len(frames) for split, frames in splits.items()},
        "atoms_per_frame": len(splits["pool"][0]),
        "labels": {
            "method": "GFN1-xTB, periodic (Gamma point only), tblite; Fermi smearing as in engine",
            "engine": history["engine"],
            "reference": "Grimme, Bannwarth, Shushkov, J. Chem. Theory Comput. 13, 1989 (2017)",
        },
        "units": {
            "energy": "eV; contains -TS of the electrons at the engine's electronic_temperature",
            "forces": "eV/Å",
            "stress": "eV/Å³, (1/V) dE/dstrain, positive under tension; without the kinetic term",
            "positions": "Å, wrapped into the cubic cell",
            "density_g_cm3": "g/cm³",
            "time_fs": "fs since the start of the trajectory",
            "kinetic_temperature_K": "K, of the replica at that moment",
            "pressure_GPa": "GPa, virial and ideal-gas term at the nominal temperature",
        },
        "versions": {
            "msmlff": msmlff.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "tblite", "ase", "numpy", "vesin")},
        },
    }


def verify_file(path: Path, frames: Sequence[Configuration]) -> None:
    """Read the file back and compare; labels must belong to the positions that are written, to the last
    digit.
    """
    written = list(read_frames(path))
    if len(written) != len(frames):
        raise SystemExit(f"{path} holds {len(written)} frames instead of {len(frames)}")
    for index, (a, b) in enumerate(zip(written, frames, strict=True)):
        assert a.forces is not None
        assert b.forces is not None
        moved = np.abs(a.positions - b.positions).max()
        changed = np.abs(a.forces - b.forces).max()
        if moved > 1e-9 or changed > 10.0**-DECIMALS or a.group != b.group:
            raise SystemExit(f"{path}:{index} differs from what was labelled: {moved} Å, {changed} eV/Å")
