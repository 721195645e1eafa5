"""Pools of nickel and aluminium for scripts/metals_study.sh: EAM dynamics of liquid and solid cells.

    python scripts/metals_sample.py EAM_FOLDER OUT [--steps 50]

Writes OUT/nickel and OUT/aluminium, each with pool, val and test. Nickel's pool holds liquid and solid cells
of 32 and 108 atoms at 2000 K and no pressure, and fcc, bcc and hcp cells that are strained and heated; val
and test are liquid and solid of dynamics of their own. Aluminium's pool and val are nickel's cells, scaled by
4.05/3.52 and labelled with aluminium's EAM (the translation of arXiv 2311.05407); its test is of its own
dynamics, at temperatures that are lower as its melting point is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.formats import write_frames
from msmlff.data.neighbors import neighbor_list
from msmlff.simulation import NPT, NVT, Limits, MDSettings, MolecularDynamics
from msmlff.simulation.eam import EAMForces

TIMESTEP = 2.0  # fs
FRAMES = 12  # of each replica at constant pressure,
STRAINED_FRAMES = 4  # and of each strained crystal
MELT, SETTLE = 8, 5  # intervals between frames: to melt, and to settle before the first frame
STRAINS = (-0.06, -0.03, 0.0, 0.03, 0.06)  # of every length, with random strains of up to SHEAR beside them
SHEAR = 0.04
HEAT = (0.15, 0.5, 0.85)  # of the liquid's temperature: 300, 1000 and 1700 K for nickel
LIMITS = Limits(min_distance=0.8, max_temperature=1e5)


@dataclass(frozen=True)
class Metal:
    """An element, its EAM file, lattice constant (Å) and the temperature (K) of its dynamics."""

    symbol: str
    file: str
    spacing: float
    temperature: float


NICKEL = Metal("Ni", "Ni-Nb_1.eam.fs", 3.52, 2000.0)
ALUMINIUM = Metal("Al", "Al1.eam.fs", 4.05, 2000.0 * 933.5 / 1728.0)  # by the melting points


def crystals(metal: Metal) -> dict[str, Atoms]:
    """fcc of 32 and 108, bcc of 54, hcp of 48 atoms, all with fcc's volume per atom."""
    symbol, a = metal.symbol, metal.spacing
    fcc = bulk(symbol, "fcc", a=a, cubic=True)
    bcc = bulk(symbol, "bcc", a=a / 2 ** (1 / 3), cubic=True)
    hcp = bulk(symbol, "hcp", a=a / np.sqrt(2), c=a / np.sqrt(2) * np.sqrt(8 / 3), orthorhombic=True)
    return {
        "fcc 32": fcc.repeat(2),
        "fcc 108": fcc.repeat(3),
        "bcc 54": bcc.repeat(3),
        "hcp 48": hcp.repeat((3, 2, 2)),
    }


def strained(metal: Metal, seed: int) -> Iterator[tuple[Configuration, float]]:
    """Every crystal at every strain and temperature, the group being its kind; with the temperature in K."""
    rng = np.random.default_rng(seed)
    for name, atoms in crystals(metal).items():
        for heat in HEAT:
            for strain in STRAINS:
                random = rng.uniform(-SHEAR, SHEAR, (3, 3))
                deformation = (1.0 + strain) * (np.eye(3) + 0.5 * (random + random.T))
                new = atoms.copy()
                new.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
                yield to_frame(new, f"strained {name}"), heat * metal.temperature


def to_frame(atoms: Atoms, group: str) -> Configuration:
    return Configuration(
        atoms.numbers.astype(np.int64), atoms.positions, atoms.cell.array, atoms.pbc, group=group
    )


def sample_strained(metal: Metal, forces: EAMForces, interval: int, seed: int) -> list[Configuration]:
    """Frames of strained, heated crystals at constant volume, the first after an interval."""
    starts, temperatures = zip(*strained(metal, seed), strict=True)
    settings = MDSettings(TIMESTEP, list(temperatures), seed=seed, limits=LIMITS)
    md = MolecularDynamics(forces, starts, NVT(), settings)
    return collect(md, starts, interval, STRAINED_FRAMES)


def sample_hot(
    metal: Metal, forces: EAMForces, copies: dict[str, int], interval: int, seed: int
) -> list[Configuration]:
    """Liquid and solid fcc cells at the metal's temperature and no pressure.

    Args:
        copies: replicas of "fcc 32" and "fcc 108", of liquid and solid each.
        interval: steps between frames.
        seed: of velocities and noise.
    """
    cells = crystals(metal)
    solid = [to_frame(cells[name], f"solid {name[4:]}") for name, n in copies.items() for _ in range(n)]
    melting = [replace(f, positions=1.04 * f.positions, cell=1.04 * f.cell) for f in solid]
    hot = MDSettings(TIMESTEP, 2.25 * metal.temperature, seed=seed, limits=LIMITS)
    md = MolecularDynamics(forces, melting, NVT(), hot)
    md.run(MELT * interval)
    liquid = [replace(f, group=f.group.replace("solid", "liquid")) for f in md.frames().values()]
    starts = solid + liquid
    settings = MDSettings(TIMESTEP, metal.temperature, seed=seed + 1, limits=LIMITS)
    md = MolecularDynamics(forces, starts, NPT(compressibility=0.01), settings)
    md.run(SETTLE * interval)
    return collect(md, starts, interval, FRAMES)


def collect(
    md: MolecularDynamics, starts: Sequence[Configuration], interval: int, count: int
) -> list[Configuration]:
    """``count`` labelled frames of each replica that lives, ``interval`` steps apart, by replica."""
    kept: dict[int, list[Configuration]] = {k: [] for k in range(len(starts))}
    for _ in range(count):
        md.run(interval)
        for k, frame in md.frames().items():
            kept[k].append(replace(frame, group=starts[k].group))
    for failure in md.failures.values():
        print(f"{starts[failure.replica].group}: {failure.message()}")
    return labelled([f for frames in kept.values() for f in frames], md.forces)


def labelled(frames: Sequence[Configuration], forces: EAMForces) -> list[Configuration]:
    """The frames with energy, forces and stress of the EAM."""
    done = []
    for frame in frames:
        found = neighbor_list(frame.positions, frame.cell, frame.pbc, forces.cutoff)
        labels = forces(collate([frame], [found], forces.atomic_numbers), stress=True)
        assert labels.stress is not None
        done.append(
            replace(
                frame,
                energy=labels.energy.item(),
                forces=labels.forces.numpy(),
                stress=labels.stress[0].numpy(),
            )
        )
    return done


def translated(frames: Sequence[Configuration], metal: Metal, forces: EAMForces) -> list[Configuration]:
    """Nickel's cells as cells of another metal: scaled by the lattice constants, labelled anew."""
    ratio, (number,) = metal.spacing / NICKEL.spacing, forces.atomic_numbers
    return labelled(
        [
            replace(f, numbers=np.full(len(f), number), positions=ratio * f.positions, cell=ratio * f.cell)
            for f in frames
        ],
        forces,
    )


def write_pools(folder: Path, parts: dict[str, list[Configuration]]) -> None:
    """The parts of a pool; the test part comes last, so a folder that has it is whole."""
    for name, frames in parts.items():
        write_frames(folder / f"{name}.extxyz.gz", frames)
        print(f"{folder / name}: {len(frames)} frames, {sum(map(len, frames))} atoms")


def main() -> None:
    """Writes the pools that are not there yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("eam", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=50, help="of dynamics between two frames")
    arguments = parser.parse_args()
    folders = {name: arguments.out / name for name in ("nickel", "aluminium")}
    if all((folder / "test.extxyz.gz").is_file() for folder in folders.values()):
        return
    torch.set_num_threads(1)
    interval = arguments.steps
    ni = EAMForces(arguments.eam / NICKEL.file, NICKEL.symbol)
    al = EAMForces(arguments.eam / ALUMINIUM.file, ALUMINIUM.symbol)
    pool = sample_strained(NICKEL, ni, interval, seed=1)
    pool += sample_hot(NICKEL, ni, {"fcc 32": 4, "fcc 108": 2}, interval, seed=10)
    val = sample_hot(NICKEL, ni, {"fcc 32": 1, "fcc 108": 1}, interval, seed=20)
    few = {"fcc 32": 2, "fcc 108": 1}
    test = sample_hot(NICKEL, ni, few, interval, seed=30)
    write_pools(folders["nickel"], {"pool": pool, "val": val, "test": test})
    own = sample_hot(ALUMINIUM, al, few, interval, seed=40)
    others = {name: translated(frames, ALUMINIUM, al) for name, frames in (("pool", pool), ("val", val))}
    write_pools(folders["aluminium"], others | {"test": own})


if __name__ == "__main__":
    main()
