"""GFN1-xTB and GFN2-xTB labels by tblite, molecular or periodic (at the Gamma point)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from ase.units import Bohr, Hartree, kB

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.labeling.engine import Labels, SCFError


@dataclass(frozen=True)
class XTBEngine:
    """Extended tight binding; the defaults are tblite's own.

    GFN1: Grimme, Bannwarth, Shushkov, JCTC 13, 1989 (2017).
    GFN2: Bannwarth, Ehlert, Grimme, JCTC 15, 1652 (2019).
    The energy contains the electronic entropy term -TS of the Fermi smearing; forces and stress are its
    derivatives.

    Attributes:
        method: "GFN1-xTB", "GFN2-xTB" or "IPEA1-xTB".
        charge: total charge, e.
        uhf: number of unpaired electrons.
        accuracy: tblite's numerical accuracy; smaller is tighter.
        electronic_temperature: K, of the Fermi smearing.
        max_iterations: limit of the self-consistency cycle.
    """

    method: str = "GFN1-xTB"
    charge: float = 0.0
    uhf: int = 0
    accuracy: float = 1.0
    electronic_temperature: float = 300.0
    max_iterations: int = 250

    def __post_init__(self) -> None:
        known = ("GFN1-xTB", "GFN2-xTB", "IPEA1-xTB")
        if self.method not in known:
            raise InputError(f"labeling.method={self.method!r} is unknown; write one of {', '.join(known)}")

    def settings(self) -> dict[str, Any]:
        """Engine, its version and every parameter, as JSON values."""
        return {"engine": "tblite", "version": version("tblite"), **asdict(self)}

    def label(self, frame: Configuration) -> Labels:
        """Energy, forces and (periodic frames) stress of ``frame``.

        Raises:
            SCFError: the charges do not become self-consistent, or tblite refuses the geometry.
            InputError: the frame is periodic in some directions only.
        """
        from tblite.exceptions import TBLiteRuntimeError
        from tblite.interface import Calculator

        periodic = bool(np.any(frame.pbc))
        if periodic and not np.all(frame.pbc):
            raise InputError(f"{frame.source or 'frame'}: pbc {frame.pbc} is mixed; xTB takes all or none")
        cell: dict[str, Any] = (
            {"lattice": frame.cell / Bohr, "periodic": np.ones(3, dtype=bool)} if periodic else {}
        )
        try:
            calculator = Calculator(
                self.method, frame.numbers, frame.positions / Bohr, self.charge, self.uhf or None, **cell
            )
            calculator.set("verbosity", 0)
            calculator.set("accuracy", self.accuracy)
            calculator.set("temperature", self.electronic_temperature * kB / Hartree)
            calculator.set("max-iter", self.max_iterations)
            result = calculator.singlepoint()
        except TBLiteRuntimeError as failure:
            raise SCFError(str(failure)) from failure
        energy = float(result.get("energy")) * Hartree
        forces = -np.asarray(result.get("gradient")) * (Hartree / Bohr)
        stress = np.asarray(result.get("virial")) * Hartree / frame.volume if periodic else None
        return Labels(energy, forces, stress)
