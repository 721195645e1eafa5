"""SOAP: the power spectrum of smoothed neighbour densities, by DScribe."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from msmlff.data.configuration import Configuration
from msmlff.data.store import FrameStore
from msmlff.distill.descriptors import DESCRIPTOR_VERSION, Compute, Descriptor
from msmlff.errors import InputError


@dataclass(frozen=True)
class SOAP(Descriptor):
    """SOAP power spectrum of each atom (Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115 (2013), eq. 31), with
    Gaussian-type radial functions, as DScribe computes it. The species are those of the pool, and the number
    of features grows with their square. Needs the optional package dscribe.

    Attributes:
        r_cut: Å, above 1.
        n_max: radial functions, 1 or more.
        l_max: highest degree of the spherical harmonics, 0 to 20.
        sigma: Å, width of the Gaussians on the neighbours.

    Raises:
        InputError: a parameter out of its range; when features are asked for, dscribe is not installed.
    """

    r_cut: float = 5.0
    n_max: int = 6
    l_max: int = 4
    sigma: float = 0.5

    def __post_init__(self) -> None:
        allowed = {
            "r_cut": (self.r_cut > 1, "a length in Å above 1"),
            "n_max": (self.n_max >= 1, "a whole number, 1 or more"),
            "l_max": (0 <= self.l_max <= 20, "a whole number from 0 to 20"),
            "sigma": (self.sigma > 0, "a positive length in Å"),
        }
        for name, (fits, what) in allowed.items():
            if not fits:
                raise InputError(f"descriptor.{name}={getattr(self, name)}: write {what}")

    def settings(self) -> dict[str, Any]:
        try:
            installed = version("dscribe")
        except PackageNotFoundError:
            raise InputError(
                'descriptor=soap needs the package dscribe: pip install "msmlff[soap]", or write '
                "descriptor=untrained_mace"
            ) from None
        return {
            "descriptor": "SOAP",
            **{name: getattr(self, name) for name in ("r_cut", "n_max", "l_max", "sigma")},
            "dscribe": installed,
            "version": DESCRIPTOR_VERSION,
        }

    def compute(self, frames: FrameStore) -> Compute:
        from dscribe import descriptors as dscribe

        spectra = {
            periodic: dscribe.SOAP(
                r_cut=self.r_cut,
                n_max=self.n_max,
                l_max=self.l_max,
                sigma=self.sigma,
                species=[int(z) for z in frames.atomic_numbers],
                periodic=periodic,
                dtype="float64",
            )
            for periodic in (False, True)
        }

        def rows(ids: range) -> np.ndarray:
            parts = [self._rows(spectra, frames[i]) for i in ids]
            return np.concatenate(parts)

        return rows

    @staticmethod
    def _rows(spectra: dict[bool, Any], frame: Configuration) -> np.ndarray:
        from ase import Atoms
        from ase.geometry import complete_cell

        # DScribe wants three lattice vectors even where one direction is periodic; those filled in count for
        # nothing.
        atoms = Atoms(frame.numbers, frame.positions, cell=complete_cell(frame.cell), pbc=frame.pbc)
        values: np.ndarray = spectra[bool(frame.pbc.any())].create(atoms)
        return values.reshape(len(frame), -1)
