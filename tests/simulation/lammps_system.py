"""A liquid and a model for the tests of LAMMPS; as a script, run by each rank, LAMMPS's results in a file.

mpiexec -n 2 python lammps_system.py OUT.npz
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from msmlff.data.configuration import Configuration
from msmlff.data.statistics import Statistics
from msmlff.models import MACE, MSMACE, MACEArchitecture, MSMACEArchitecture
from msmlff.sampling import random_packing
from msmlff.simulation.lammps import LammpsForces, attach, import_lammps

SPECIES = ["O", "H"]  # LAMMPS's types, in another order than the model's
SCALES = (
    {"cutoff": 2.0, "channels": 4, "l_max": 2, "radial_mlp": [8]},
    {"cutoff": 3.0, "channels": 4, "l_max": 1, "radial_mlp": [8]},
)


def model() -> MSMACE:
    """Two layers in float64, with the repulsion of the cores."""
    torch.manual_seed(0)
    architecture = MSMACEArchitecture(scales=SCALES, channels=4, neighbor_norm="sqrt", zbl=True)
    statistics = Statistics((3.0, 10.0), (0.0, 0.0), 0.3)
    return MSMACE([1, 8], [-13.6, -2041.7], architecture, statistics).double().eval()


def fast_model() -> MACE:
    """One layer whose energies are small beside 300 K, so that atoms do not collapse onto each other."""
    torch.manual_seed(0)
    keys: dict[str, Any] = {"channels": 4, "l_max": 1, "correlation": 2, "layers": 1, "radial_mlp": (8,)}
    architecture = MACEArchitecture(cutoff=2.6, zbl=True, neighbor_norm="sqrt", **keys)
    return MACE([1, 8], [-13.6, -2041.7], architecture, Statistics((3.0,), (0.0, 0.0), 0.1)).double().eval()


def liquid(atoms: int = 90) -> Configuration:
    """Random atoms in a sheared periodic cell."""
    elements = ["H"] * (2 * atoms // 3) + ["O"] * (atoms - 2 * atoms // 3)
    frame = random_packing(elements, 0.9, min_distance=1.1, seed=0)
    shear = np.array([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [-0.1, 0.15, 1.0]])
    return replace(frame, positions=frame.positions @ shear, cell=frame.cell @ shear)


def start(frame: Configuration) -> Any:
    """LAMMPS with the frame's atoms, at rest."""
    lmp = import_lammps()(cmdargs=["-screen", "none", "-log", "none"])
    (a, _, _), (xy, b, _), (xz, yz, c) = frame.cell
    kinds = [SPECIES.index(s) + 1 for s in frame.to_ase().symbols]
    for command in (
        "units metal",
        "atom_style atomic",
        f"region box prism 0 {a:.17g} 0 {b:.17g} 0 {c:.17g} {xy:.17g} {xz:.17g} {yz:.17g}",
        "create_box 2 box",
        "mass 1 15.999",
        "mass 2 1.008",
    ):
        lmp.command(command)
    positions = (frame.positions @ np.linalg.inv(frame.cell) % 1.0 @ frame.cell).ravel().tolist()
    lmp.create_atoms(len(frame), list(range(1, len(frame) + 1)), kinds, positions)
    return lmp


def results(lmp: Any, forces: LammpsForces, atoms: int) -> dict[str, np.ndarray]:
    """Energy, forces, pressure (bar) as LAMMPS has them after a run of no steps; atomic energies by ID."""
    lmp.command("compute each all pe/atom")
    lmp.command("compute sum all reduce sum c_each")
    lmp.command("thermo_style custom step pe press pxx pyy pzz pxy pxz pyz c_sum")
    lmp.command("thermo_modify norm no")
    lmp.command("run 0")
    names = ("press", "pxx", "pyy", "pzz", "pxy", "pxz", "pyz")
    return {
        "energy": np.array([lmp.get_thermo("pe"), forces.energy, lmp.extract_compute("sum", 0, 0)]),
        "pressure": np.array([lmp.get_thermo(name) for name in names]),
        "forces": np.array(lmp.gather_atoms("f", 1, 3)).reshape(atoms, 3),
        "ranks": np.array(lmp.extract_setting("world_size")),
    }


def main() -> None:
    frame = liquid()
    lmp = start(frame)
    found = results(lmp, attach(lmp, model(), SPECIES), len(frame))
    if lmp.extract_setting("world_rank") == 0:
        np.savez(sys.argv[1], **found)
    lmp.close()


if __name__ == "__main__":
    main()
