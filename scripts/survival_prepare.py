"""Training frames, start and reference of scripts/survival_study.sh.

    python scripts/survival_prepare.py ORGANICS OUT [--frames 50] [--temperatures 800 1600] [--processes 2]

Writes to OUT: plain.extxyz.gz, twice as many frames of ORGANICS as --frames says; stretched.extxyz.gz, the
first half of these and a stretched copy of each, labelled by GFN2-xTB; val and test, the latter with
stretched frames as a group of their own; equilibrium.extxyz, three molecules of dimethyl carbonate, relaxed
with GFN2-xTB; reference_KELVIN.extxyz, Langevin dynamics of them with GFN2-xTB at each temperature;
prepare.json, what was counted.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from tblite.ase import TBLite

from msmlff.data.batch import Batch
from msmlff.data.configuration import Configuration, is_isolated_atom
from msmlff.data.formats import from_ase, read_frames, write_frames
from msmlff.labeling import Labeler, XTBEngine, with_labels
from msmlff.sampling.bond_stretching import BondStretching, stretch_bonds
from msmlff.simulation import NVT, Evaluation, MDSettings, MolecularDynamics
from msmlff.simulation.relax import RelaxSettings, relax

METHOD, MOLECULES = "GFN2-xTB", "DMC(3)"
TIMESTEP = 0.5  # fs, that of the simulations
EVERY = 10  # steps between the reference's frames
VAL, TEST = 50, 100  # frames; half as many of the test's are stretched besides


def stretched(
    frames: Sequence[Configuration], labeler: Labeler, seed: int
) -> tuple[list[Configuration], dict[str, int]]:
    """A stretched copy of each frame, where it could be labelled; how many had which status."""
    new = stretch_bonds(frames, 1, BondStretching(), seed)
    results = labeler.label(new)
    kept = [with_labels(f, r) for f, r in zip(new, results, strict=True) if r.ok]
    return named(kept, "stretched"), dict(Counter(r.status for r in results))


def named(frames: Sequence[Configuration], part: str) -> list[Configuration]:
    """Frames whose errors are listed under a name."""
    return [replace(f, info={**f.info, "part": part}) for f in frames]


def chosen(frames: Sequence[Configuration], count: int) -> list[Configuration]:
    """So many at random, the same at every call."""
    order = np.random.default_rng(0).permutation(len(frames))[:count]
    return [frames[i] for i in order]


def write_pool(organics: Path, out: Path, count: int, processes: int) -> None:
    """The files of both arms, validation and test."""
    frames = list(read_frames(next(organics.glob("train*"))))
    isolated = [f for f in frames if is_isolated_atom(f)]
    others = chosen([f for f in frames if not is_isolated_atom(f)], 2 * count + VAL)
    test = chosen(list(read_frames(next(organics.glob("test*")))), TEST)
    pool, val = named(others[: 2 * count], "sampled"), named(others[2 * count :], "sampled")
    labeler = Labeler(XTBEngine(method=METHOD), out / "labels", processes)
    drawn, counts = stretched(pool[:count], labeler, seed=1)
    drawn_test, _ = stretched(test[: TEST // 2], labeler, seed=2)
    write_frames(out / "plain.extxyz.gz", isolated + pool)
    write_frames(out / "stretched.extxyz.gz", isolated + pool[:count] + drawn)
    write_frames(out / "val.extxyz.gz", val)
    write_frames(out / "test.extxyz.gz", named(test, "sampled") + drawn_test)
    content = {"plain": len(pool), "stretched": count + len(drawn), "labels": counts}
    (out / "prepare.json").write_text(json.dumps(content, indent=1) + "\n")


def write_equilibrium(organics: Path, path: Path) -> None:
    """The molecules at rest."""
    test = read_frames(next(organics.glob("test*")))
    start = next(f for f in test if f.info["Comp"] == MOLECULES).to_ase()
    start.calc = None
    found = relax(start, TBLite(method=METHOD, verbosity=0), RelaxSettings(fmax=0.02, steps=400))
    print(f"{MOLECULES}: largest force {found.fmax:.3f} eV/Å after {found.steps} steps")
    write_frames(path, [from_ase(Atoms(found.atoms.numbers, found.atoms.positions))])


class XTBForces:
    """GFN2-xTB as the force provider of one replica."""

    cutoff, device = 1e-3, torch.device("cpu")

    def __init__(self, frame: Configuration) -> None:
        self.atomic_numbers = tuple(sorted(set(frame.numbers.tolist())))
        self.atoms = Atoms(frame.numbers, frame.positions)
        self.atoms.calc = TBLite(method=METHOD, verbosity=0)

    def __call__(self, batch: Batch, stress: bool) -> Evaluation:
        self.atoms.positions = batch.positions.numpy()
        energy = torch.tensor([self.atoms.get_potential_energy()], dtype=torch.float64)
        return Evaluation(energy, torch.from_numpy(self.atoms.get_forces().copy()))


def write_reference(start: Path, path: Path, temperature: float, steps: int) -> None:
    """Langevin dynamics by the method that made the labels."""
    frame = next(iter(read_frames(start)))
    settings = MDSettings(TIMESTEP, temperature, seed=1)
    md = MolecularDynamics(XTBForces(frame), [frame], NVT(thermostat="langevin"), settings)
    frames = []
    for done in range(0, steps + 1, EVERY):
        md.run(EVERY if done else 0)
        frames.append(replace(md.frames()[0], info={"time_fs": md.time_fs}))
    write_frames(path, frames)


def main() -> None:
    """Writes what is not there yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("organics", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=50, help="of ORGANICS that are stretched")
    parser.add_argument("--temperatures", type=int, nargs="+", default=[800, 1600], help="K")
    parser.add_argument("--processes", type=int, default=2, help="that label")
    parser.add_argument("--reference-steps", type=int, default=4000, help="of dynamics with GFN2-xTB")
    arguments = parser.parse_args()
    organics, out = arguments.organics, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    equilibrium = out / "equilibrium.extxyz"
    if not (out / "prepare.json").is_file():
        write_pool(organics, out, arguments.frames, arguments.processes)
    if not equilibrium.is_file():
        write_equilibrium(organics, equilibrium)
    for temperature in arguments.temperatures:
        reference = out / f"reference_{temperature}.extxyz"
        if not reference.is_file():
            write_reference(equilibrium, reference, temperature, arguments.reference_steps)


if __name__ == "__main__":
    main()
