"""A model in LAMMPS's ML-IAP pair style; as a script, run by each rank, LAMMPS's results in a file.

mpiexec -n 2 python mliap_system.py MODEL.mliap OUT.npz
"""

from __future__ import annotations

import sys
from typing import Any

import lammps_system as system
import numpy as np

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.simulation.lammps import import_lammps

QUIET = ["-screen", "none", "-log", "none"]
KOKKOS = ["-k", "on", "-sf", "kk", "-pk", "kokkos", "newton", "on", "neigh", "half"]


def missing() -> str:
    """Why no LAMMPS here has ML-IAP with Python; empty where one has."""
    try:
        lammps = import_lammps()
    except InputError as error:
        return str(error)
    lmp = lammps(cmdargs=QUIET)
    try:
        activate(lmp)
    except (ImportError, OSError, AttributeError) as error:
        return f"this LAMMPS's ML-IAP has no Python ({error})"
    finally:
        lmp.close()
    return ""


def activate(lmp: Any) -> None:
    """Make its Python modules known to this interpreter."""
    import lammps.mliap as mliap

    mliap.activate_mliappy(lmp)
    if "KOKKOS" in lmp.installed_packages:
        mliap.activate_mliappy_kokkos(lmp)


def has_kokkos() -> bool:
    """Whether domains exchange features there."""
    lmp = import_lammps()(cmdargs=QUIET)
    try:
        return "KOKKOS" in lmp.installed_packages
    finally:
        lmp.close()


def start(frame: Configuration) -> Any:
    """LAMMPS with the frame's atoms, at rest; with KOKKOS, where it has it."""
    lmp = import_lammps()(cmdargs=QUIET + (KOKKOS if has_kokkos() else []))
    activate(lmp)
    (a, _, _), (xy, b, _), (xz, yz, c) = frame.cell
    types = [system.SPECIES.index(s) + 1 for s in frame.to_ase().symbols]
    for command in (
        "units metal",
        "atom_style atomic",
        f"region box prism 0 {a:.17g} 0 {b:.17g} 0 {c:.17g} {xy:.17g} {xz:.17g} {yz:.17g}",
        f"create_box {len(system.SPECIES)} box",
        "mass * 1.0",
    ):
        lmp.command(command)
    positions = (frame.positions @ np.linalg.inv(frame.cell) % 1.0 @ frame.cell).ravel().tolist()
    lmp.create_atoms(len(frame), list(range(1, len(frame) + 1)), types, positions)
    return lmp


def results(lmp: Any, atoms: int) -> dict[str, np.ndarray]:
    """Energy, sum of the atomic energies, forces and pressure (bar) of LAMMPS."""
    for command in (
        "compute each all pe/atom",
        "compute sum all reduce sum c_each",
        "thermo_style custom step pe press pxx pyy pzz pxy pxz pyz c_sum",
        "thermo_modify norm no",
        "run 0",
    ):
        lmp.command(command)
    names = ("press", "pxx", "pyy", "pzz", "pxy", "pxz", "pyz")
    return {
        "energy": np.array([lmp.get_thermo("pe"), lmp.extract_compute("sum", 0, 0)]),
        "pressure": np.array([lmp.get_thermo(name) for name in names]),
        "forces": np.array(lmp.gather_atoms("f", 1, 3)).reshape(atoms, 3),
        "ranks": np.array(lmp.extract_setting("world_size")),
    }


def main() -> None:
    frame = system.liquid()
    lmp = start(frame)
    lmp.command(f"pair_style mliap unified {sys.argv[1]} 0")
    lmp.command(f"pair_coeff * * {' '.join(system.SPECIES)}")
    found = results(lmp, len(frame))
    if lmp.extract_setting("world_rank") == 0:
        np.savez(sys.argv[2], **found)
    lmp.close()


if __name__ == "__main__":
    main()
