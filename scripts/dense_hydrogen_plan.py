"""The settings of the dense-hydrogen pool, and its seed frames."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from msmlff.data.configuration import Configuration
from msmlff.sampling import molecular_lattice, random_packing, separate

POSITION_DECIMALS = (
    6  # Å; positions are rounded before they are labelled, so the labels belong to what is shipped
)


@dataclass(frozen=True)
class Plan:
    """What is made, and how. Counts are per density unless said otherwise.

    Attributes:
        densities: g/cm³.
        atoms: atoms in a frame.
        temperature: K.
        splits: frames of each split; every split is a trajectory of its own.
        spares: further frames at the end of each trajectory, in place of frames whose SCF fails.
        lattices, packings: seed frames of each kind.
        electronic_temperature: K, smearing of the labels. A metal in so small a cell has few levels at the
            Gamma point, and with little smearing the force on an atom depends on the whole cell. This value
            leaves little of that and is as close to PBE forces as any (docs/dense_hydrogen.md).
        cutoff, channels, l_max, correlation, layers, radial_mlp: the model that drives the MD.
        train_steps: optimiser steps of the first training and of each later one.
        round_fs: length of each round's MD, fs; the rounds end early when ``target`` is reached.
        target: force RMSE on visited frames over their force RMS, below which (and with no failed replica)
            the rounds end.
        timestep_fs, explore_friction, friction: fs, 1/fs, 1/fs.
        equilibration_fs: before the first frame of a trajectory.
        spacing_fs: between frames.
        min_distance: Å: a replica with a closer pair has failed; no shipped frame has one.
    """

    densities: tuple[float, ...] = tuple(float(x) for x in np.linspace(0.98, 1.41, 23))
    atoms: int = 128
    temperature: float = 1000.0
    splits: dict[str, int] = field(default_factory=lambda: {"pool": 25, "val": 2, "test": 10})
    spares: int = 2
    lattices: int = 1
    packings: int = 1
    electronic_temperature: float = 30000.0
    cutoff: float = 2.8
    channels: int = 24
    l_max: int = 2
    correlation: int = 3
    layers: int = 1
    radial_mlp: tuple[int, ...] = (16, 16)
    train_steps: tuple[int, int] = (1200, 1000)
    round_fs: tuple[float, ...] = (200.0, 200.0)
    target: float = 0.15
    timestep_fs: float = 0.5
    explore_friction: float = 0.05
    friction: float = 0.02
    equilibration_fs: float = 400.0
    spacing_fs: float = 20.0
    min_distance: float = 0.5

    @classmethod
    def quick(cls) -> Plan:
        """Two densities and little of everything: shows that the road is open, not good data."""
        return cls(
            densities=(0.98, 1.1),
            atoms=16,
            splits={"pool": 2, "val": 1, "test": 1},
            spares=1,
            lattices=2,
            packings=1,
            channels=4,
            l_max=1,
            correlation=2,
            train_steps=(20, 10),
            round_fs=(4.0,),
            timestep_fs=0.2,
            equilibration_fs=2.0,
            spacing_fs=2.0,
            min_distance=0.1,
        )


def group_name(density: float) -> str:
    """The group a frame of this density belongs to: "0.98"."""
    return f"{density:.2f}"


def seed_frames(plan: Plan) -> list[Configuration]:
    """Perturbed H2 lattices and random packings at every density, from ordered to disordered."""
    frames = []
    for d, density in enumerate(plan.densities):
        for k in range(plan.lattices):
            frames.append(
                lattice_start(plan, density, 0.03 + 0.12 * k / max(1, plan.lattices - 1), 1000 * d + k)
            )
        for k in range(plan.packings):
            distance = 0.62 + 0.3 * k / max(1, plan.packings - 1)
            frames.append(packing_start(plan, density, distance, 1000 * d + 500 + k))
    return frames


def lattice_start(plan: Plan, density: float, displacement: float, seed: int) -> Configuration:
    """An H2 lattice whose atoms are displaced by ``displacement`` Å per component, overlaps pushed apart."""
    frame = molecular_lattice(
        "H",
        plan.atoms // 2,
        density,
        bond_length=0.76,
        bond_spread=0.03,
        displacement=displacement,
        seed=seed,
    )
    positions = separate(frame.positions, float(frame.cell[0, 0]), 0.58)
    if positions is None:
        raise RuntimeError(f"overlaps remain in the lattice of seed {seed} at {density} g/cm³")
    return _named(replace(frame, positions=positions), density, f"lattice-{seed}")


def packing_start(plan: Plan, density: float, distance: float, seed: int) -> Configuration:
    """A random packing of atoms at least ``distance`` Å apart."""
    frame = random_packing(["H"] * plan.atoms, density, min_distance=distance, seed=seed)
    return _named(frame, density, f"packing-{seed}")


def tidy(frame: Configuration) -> Configuration:
    """The frame wrapped into its cubic cell, positions and cell rounded to what is written to files."""
    cell = np.round(frame.cell, 8)
    length = float(cell[0, 0])
    positions = np.round(frame.positions % length, POSITION_DECIMALS)
    return replace(frame, positions=positions, cell=cell)


def _named(frame: Configuration, density: float, name: str) -> Configuration:
    group = group_name(density)
    info = {"density_g_cm3": round(density, 6), "stage": "seed", "trajectory": f"{group}-{name}"}
    return replace(frame, group=group, info=info)
