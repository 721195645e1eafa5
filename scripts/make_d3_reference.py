"""Writes tests/models/reference/d3.npz: what simple-dftd3 gives for a crystal, two-body, PBE, Becke-Johnson.

All sums stop at 60 bohr less the 1 Å that is half of our smooth end, those of the coordination numbers, too:
there a far pair still counts exp(-16), which forces notice in dense matter.

    python -m venv D3 && D3/bin/pip install numpy ase dftd3==1.7.0
    D3/bin/python scripts/make_d3_reference.py

Holds `numbers`, `positions` (Å), `cell` (Å), `energy` (eV) and `forces` (eV/Å).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.units import Bohr, Hartree
from dftd3.interface import DispersionModel, RationalDampingParam

FILE = Path(__file__).resolve().parents[1] / "tests" / "models" / "reference" / "d3.npz"


def main() -> None:
    atoms = bulk("CO", "rocksalt", a=4.1, cubic=True)
    atoms.set_cell(atoms.cell.array + np.array([[0, 0.3, 0], [0, 0, 0.1], [0.2, 0, 0]]), scale_atoms=True)
    atoms.rattle(0.1, seed=0)
    model = DispersionModel(
        atoms.numbers, atoms.positions / Bohr, lattice=atoms.cell.array / Bohr, periodic=np.ones(3, bool)
    )
    cutoff = 60.0 - 1.0 / Bohr
    model.set_realspace_cutoff(disp2=cutoff, disp3=1.0, cn=cutoff)
    result = model.get_dispersion(RationalDampingParam(method="pbe", atm=False), grad=True)
    np.savez_compressed(
        FILE,
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        energy=result["energy"] * Hartree,
        forces=-result["gradient"] * (Hartree / Bohr),
    )


if __name__ == "__main__":
    main()
