"""The embedded-atom method as a force provider: fast enough to sample metals with the batched dynamics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ase.data import atomic_numbers
from scipy.interpolate import CubicSpline
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.errors import InputError
from msmlff.simulation.forces import Evaluation

FORMS = (".alloy", ".fs")


class EAMForces:
    """One element of an EAM file in LAMMPS' format (.eam.alloy, .eam.fs), on the CPU in float64.

    E = sum_i F(rho_i) + 1/2 sum_ij phi(r_ij), rho_i = sum_j rho(r_ij) (Daw, Baskes, Phys. Rev. B 29, 6443
    (1984); Finnis, Sinclair, Phil. Mag. A 50, 45 (1984)), with cubic splines through the file's tables. A
    force provider of ``MolecularDynamics``; its energies are those of ``ase.calculators.eam``.

    Attributes:
        cutoff: Å, of the file.
        atomic_numbers: the element.
        device: the CPU.

    Args:
        path: the file.
        element: its chemical symbol.

    Raises:
        InputError: no such file, another format, or an element that the file lacks.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path | str, element: str) -> None:
        from ase.calculators.eam import EAM

        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no EAM file {path}")
        if path.suffix not in FORMS:
            raise InputError(f"{path}: write an EAM file that ends in {' or '.join(FORMS)}")
        tables = EAM(potential=str(path))
        if element not in tables.elements:
            raise InputError(f"{path} has no {element}, it has {', '.join(tables.elements)}")
        k = tables.elements.index(element)
        density = tables.density_data[k, k] if path.suffix == ".fs" else tables.density_data[k]
        r = tables.dr * np.arange(1, tables.nr)  # the file has r phi(r), which says nothing of r = 0
        self.cutoff, self.atomic_numbers = float(tables.cutoff), (atomic_numbers[element],)
        self._embedding = _Spline(0.0, tables.drho, tables.embedded_data[k])
        self._density = _Spline(0.0, tables.dr, density)
        self._pair = _Spline(tables.dr, tables.dr, tables.rphi_data[k, k][1:] / r)

    def __call__(self, batch: Batch, stress: bool) -> Evaluation:
        """Energies, forces and, if asked for, stresses."""
        shift = torch.einsum("ei,eij->ej", batch.shift, batch.cell[batch.frame[batch.receiver]])
        vector = batch.positions[batch.receiver] - batch.positions[batch.sender] + shift
        length = vector.norm(dim=1)
        inside = (length < self.cutoff).nonzero()[:, 0]
        sender, receiver = batch.sender[inside], batch.receiver[inside]
        vector, length = vector[inside], length[inside]
        zero = length.new_zeros(batch.num_atoms)
        rho, rho_slope = self._density(length)
        phi, phi_slope = self._pair(length)
        embedding, embedding_slope = self._embedding(zero.index_add(0, receiver, rho))
        atomic = embedding + 0.5 * zero.index_add(0, receiver, phi)
        energy = length.new_zeros(batch.num_frames).index_add(0, batch.frame, atomic)
        # of an edge: each pair has two
        gradient = (embedding_slope[receiver] * rho_slope + 0.5 * phi_slope) / length
        gradient = gradient.unsqueeze(1) * vector
        forces = torch.zeros_like(batch.positions)
        forces = forces.index_add(0, receiver, -gradient).index_add(0, sender, gradient)
        return Evaluation(energy, forces, _stress(batch, vector, gradient, receiver) if stress else None)


def _stress(batch: Batch, vector: Tensor, gradient: Tensor, receiver: Tensor) -> Tensor:
    """[frames, 3, 3] eV/Å³, (1/V) dE/dstrain; NaN where there is no volume."""
    products = vector.unsqueeze(2) * gradient.unsqueeze(1)
    virial = torch.zeros_like(batch.cell).index_add(0, batch.frame[receiver], products)
    volume = torch.linalg.det(batch.cell).abs().view(-1, 1, 1)
    return (virial / volume).masked_fill(volume == 0, float("nan"))


class _Spline:
    """A cubic spline through values on an even grid; beyond its ends the last pieces go on."""

    def __init__(self, start: float, step: float, values: np.ndarray) -> None:
        self.start, self.step, self.last = start, step, len(values) - 2
        pieces = CubicSpline(step * np.arange(len(values)), values).c  # [4, intervals], highest power first
        self.coefficients = torch.from_numpy(np.ascontiguousarray(pieces.T))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and slopes."""
        piece = ((x - self.start) / self.step).long().clamp(0, self.last)
        a, b, c, d = self.coefficients[piece].unbind(dim=1)
        t = x - self.start - piece * self.step
        return ((a * t + b) * t + c) * t + d, (3.0 * a * t + 2.0 * b) * t + c
