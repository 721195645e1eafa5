"""The embedded-atom method of one element from a Finnis-Sinclair file of LAMMPS, as a force field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor
from toys import Toy

from msmlff.data.batch import Batch


class Spline:
    """A cubic spline on an even grid, differentiable."""

    def __init__(self, step: float, values: np.ndarray) -> None:
        self.step, self.last = step, len(values) - 2
        c = CubicSpline(step * np.arange(len(values)), values).c  # [4, intervals], highest power first
        self.coefficients = torch.from_numpy(np.ascontiguousarray(c.T))

    def __call__(self, x: Tensor) -> Tensor:
        interval = (x.detach() / self.step).long().clamp(0, self.last)
        a, b, c, d = self.coefficients[interval].unbind(dim=1)
        t = x - interval * self.step
        return ((a * t + b) * t + c) * t + d


class EAM(Toy):
    """E_i = F(sum_j rho(r_ij)) + 1/2 sum_j phi(r_ij)."""

    def __init__(self, path: Path, atomic_number: int) -> None:
        words = path.read_text().split("\n", 3)[3].split()
        count, (n_rho, d_rho, n_r, d_r, cutoff) = int(words[0]), words[2:7]
        assert count == 1
        tables = np.array(words[11:], dtype=float)
        n, m = int(n_rho), int(n_r)
        embedding, density, pair = tables[:n], tables[n : n + m], tables[n + m : n + 2 * m]
        super().__init__(cutoff=float(cutoff))
        self.atomic_numbers = (atomic_number,)
        self.embedding = Spline(float(d_rho), embedding)
        self.density = Spline(float(d_r), density)
        r = np.maximum(float(d_r) * np.arange(m), 1e-9)
        self.pair = Spline(float(d_r), np.where(r > 0.5, pair / r, 0.0))  # the file has r phi(r)

    def interaction_energies(self, vectors: Tensor, batch: Batch) -> Tensor:
        length = vectors.square().sum(dim=1).sqrt()
        inside = length < self.cutoff
        zero = length.new_zeros(batch.num_atoms)
        rho = zero.index_add(0, batch.receiver, torch.where(inside, self.density(length), 0.0))
        phi = zero.index_add(0, batch.receiver, torch.where(inside, self.pair(length), 0.0))
        return self.embedding(rho) + 0.5 * phi
