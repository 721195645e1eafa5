"""Atom-centred symmetry functions of ANI (Smith, Isayev, Roitberg, Chem. Sci. 8, 3192 (2017), eq. 3 and 4).

    R_s     = 1/4 sum_j exp(-eta (r_ij - rho_s)^2) f(r_ij)                               j of one species
    A_{s,q} = sum_{j<k} 2 ((1 + cos(theta_jik - theta_q)) / 2)^zeta                      j, k of two species
                        exp(-eta ((r_ij + r_ik) / 2 - rho_s)^2) f(r_ij) f(r_ik)

The 1/4 and, in the angular part, arccos(0.95 cos theta) for theta are those of the authors' code and of
torchani, without which no network of theirs gives its numbers. The 0.95 also keeps gradients finite where
atoms are in line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from msmlff.nn.constant import Constant
from msmlff.nn.radial import PolynomialCutoff
from msmlff.nn.segment import row_pointer, segment_spread, segment_sum

#: Factor on cos(theta); see the module's docstring.
COSINE_FACTOR = 0.95
#: Triples worked on at a time; more of them are computed again in the backward pass instead of kept.
MAX_TRIPLES = 200_000


class CosineCutoff(nn.Module):
    """f(r) = (1 + cos(pi r / cutoff)) / 2, 0 beyond the cutoff: ANI's own. Forces have a kink there."""

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = float(cutoff)

    def forward(self, length: Tensor) -> Tensor:
        """[...] Å -> [...]."""
        return 0.5 + 0.5 * torch.cos(length.clamp(max=self.cutoff) * (math.pi / self.cutoff))


@dataclass(frozen=True)
class Grid:
    """Widths and centres of the symmetry functions.

    Attributes:
        radial_eta: 1/Å^2.
        radial_shifts: Å.
        angular_eta: 1/Å^2.
        angular_shifts: Å.
        zeta: exponent of the angular part, >= 1.
        angles: radians, between 0 and pi.
    """

    radial_eta: float
    radial_shifts: tuple[float, ...]
    angular_eta: float
    angular_shifts: tuple[float, ...]
    zeta: float
    angles: tuple[float, ...]


class SymmetryFunctions(nn.Module):
    """The environment vectors (AEV) of atoms.

    Args:
        num_species: species of the model.
        grid: widths and centres.
        radial_cutoff: f of the radial part, with its ``cutoff`` in Å.
        angular_cutoff: f of the angular part; its cutoff is the shorter or the same.
    """

    def __init__(
        self,
        num_species: int,
        grid: Grid,
        radial_cutoff: CosineCutoff | PolynomialCutoff,
        angular_cutoff: CosineCutoff | PolynomialCutoff,
    ) -> None:
        super().__init__()
        self.num_species, self.grid = num_species, grid
        self.radial_cutoff, self.angular_cutoff = radial_cutoff, angular_cutoff
        self.num_pairs = num_species * (num_species + 1) // 2
        radial, angular = len(grid.radial_shifts), len(grid.angular_shifts) * len(grid.angles)
        self.size = num_species * radial + self.num_pairs * angular
        self.max_triples = MAX_TRIPLES
        self._radial_shifts = Constant(grid.radial_shifts)
        self._angular = AngularSum(grid)

    def forward(self, vectors: Tensor, sender_species: Tensor, receiver: Tensor, atoms: int) -> Tensor:
        """Environment vectors.

        Args:
            vectors: [edges, 3] Å; edges beyond the cutoff are ignored.
            sender_species: [edges] long.
            receiver: [edges] long, ascending.
            atoms: how many there are.

        Returns:
            [atoms, size]: radial part, [species, shift]; then angular part, [pair of species, shift, angle],
            pairs as (0, 0), (0, 1), .. (1, 1), ..
        """
        chosen = (vectors.detach().square().sum(dim=1).sqrt() < self.radial_cutoff.cutoff).nonzero()[:, 0]
        row = receiver.index_select(0, chosen) * self.num_species + sender_species.index_select(0, chosen)
        order = torch.argsort(row, stable=True)  # by receiver, then by the neighbour's species
        row = row.index_select(0, order)
        vectors = vectors.index_select(0, chosen.index_select(0, order))
        length = vectors.square().sum(dim=1).sqrt()
        radial = segment_sum(self._radial(length), row_pointer(row, atoms * self.num_species))
        short = (length.detach() < self.angular_cutoff.cutoff).nonzero()[:, 0]
        angular = self._angular_part(
            vectors.index_select(0, short), length.index_select(0, short), row.index_select(0, short), atoms
        )
        return torch.cat([radial.view(atoms, -1), angular], dim=1)

    def _radial(self, length: Tensor) -> Tensor:
        """[edges] Å -> [edges, shifts]."""
        gauss = torch.exp(
            -self.grid.radial_eta * (length.unsqueeze(1) - self._radial_shifts(length)).square()
        )
        return gauss * (0.25 * self.radial_cutoff(length)).unsqueeze(1)

    def _angular_part(self, vectors: Tensor, length: Tensor, row: Tensor, atoms: int) -> Tensor:
        """[atoms, pairs * shifts * angles] from edges in the order of ``row``, receiver and species."""
        unit, weight = vectors / length.unsqueeze(1), self.angular_cutoff(length)
        edges = torch.cat([unit, length.unsqueeze(1), weight.unsqueeze(1)], dim=1)
        counts = torch.bincount(row, minlength=atoms * self.num_species).view(atoms, self.num_species)
        parts = self._chunks(counts)
        if len(parts) == 1:
            return self._chunk(edges, counts)
        inside = edges.split([int(c.sum()) for c in parts])
        sums = [
            checkpoint(self._chunk, e, c, use_reentrant=False) for e, c in zip(inside, parts, strict=True)
        ]
        return torch.cat(sums)

    def _chunks(self, counts: Tensor) -> list[Tensor]:
        """The atoms' numbers of neighbours in parts of at most ``max_triples`` triples (but of one atom)."""
        neighbors = counts.sum(dim=1)
        triples = (neighbors * (neighbors - 1) // 2).cumsum(0)
        if triples.numel() == 0 or triples[-1] <= self.max_triples:
            return [counts]
        part = triples.div(self.max_triples, rounding_mode="floor")
        return list(counts.split(torch.unique_consecutive(part, return_counts=True)[1].tolist()))

    def _chunk(self, edges: Tensor, counts: Tensor) -> Tensor:
        """[atoms, pairs * shifts * angles] from [edges, 5] (unit vector, length, weight), their counts."""
        first, second, pointer = species_pairs(counts)
        a, b = edges.index_select(0, first), edges.index_select(0, second)
        cosine = COSINE_FACTOR * (a[:, :3] * b[:, :3]).sum(dim=1)
        sums = self._angular(cosine, 0.5 * (a[:, 3] + b[:, 3]), a[:, 4] * b[:, 4], pointer)
        return sums.reshape(counts.shape[0], -1)


def species_pairs(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of neighbours of each atom, each once, by pair of species.

    Args:
        counts: [atoms, species] long, neighbours of each species; they lie in this order.

    Returns:
        first, second: [triples] long, places of the two neighbours, the lower species first.
        pointer: [atoms * pairs + 1] long, where the triples of each atom and pair of species begin.
    """
    atoms, species = counts.shape
    low, high = torch.triu_indices(species, species, device=counts.device)
    same = (low == high).expand(atoms, -1).reshape(-1)
    starts = (counts.reshape(-1).cumsum(0) - counts.reshape(-1)).view(atoms, species)
    n_low, n_high = counts[:, low].reshape(-1), counts[:, high].reshape(-1)
    sizes = torch.where(same, n_low * (n_low - 1) // 2, n_low * n_high)
    pointer = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    block = torch.repeat_interleave(sizes)
    place = torch.arange(block.shape[0], device=counts.device) - pointer.index_select(0, block)
    # of two species: a rectangle, row by row; of one: the triangle below the diagonal, row by row
    n_block = n_high.index_select(0, block)
    row = ((1.0 + (8.0 * place.double() + 1.0).sqrt()) / 2.0).long()
    in_triangle = same.index_select(0, block)
    first = torch.where(in_triangle, place - row * (row - 1) // 2, place // n_block)
    second = torch.where(in_triangle, row, place % n_block)
    first = first + starts[:, low].reshape(-1).index_select(0, block)
    second = second + starts[:, high].reshape(-1).index_select(0, block)
    return first, second, pointer


class AngularSum:
    """Sums over triples of the angular function; only three numbers a triple are kept for its derivatives."""

    def __init__(self, grid: Grid) -> None:
        self.eta, self.zeta = grid.angular_eta, grid.zeta
        self.shifts, self.angles = Constant(grid.angular_shifts), Constant(grid.angles)

    def __call__(self, cosine: Tensor, mean: Tensor, weight: Tensor, pointer: Tensor) -> Tensor:
        """[rows, shifts * angles] from [triples] each: 0.95 cos(theta), mean length in Å, f f; [rows + 1]."""
        return _Sum.apply(cosine, mean, weight, pointer, self)

    def gauss(self, mean: Tensor, order: int) -> list[Tensor]:
        """[triples, shifts] g(r) = exp(-eta (r - rho)^2) and its derivatives up to ``order``."""
        distance = mean.unsqueeze(1) - self.shifts(mean)
        g = torch.exp(-self.eta * distance.square())
        out = [g]
        if order > 0:
            out.append(-2.0 * self.eta * distance * g)
        if order > 1:
            out.append((4.0 * self.eta**2 * distance.square() - 2.0 * self.eta) * g)
        return out

    def angle(self, cosine: Tensor, order: int) -> list[Tensor]:
        """[triples, angles] a(x) = 2 h^zeta, h = (1 + cos(arccos(x) - theta)) / 2, and its derivatives."""
        x, angles = cosine.unsqueeze(1), self.angles(cosine)
        cos, sin = angles.cos(), angles.sin()
        root = (1.0 - x.square()).sqrt()
        # Angles of the grid are off 0 and pi, so h > 0 for all |x| <= 0.95.
        h = 0.5 * (1.0 + x * cos + root * sin)
        power = h ** (self.zeta - 1.0)
        out = [2.0 * power * h]
        if order > 0:
            slope = cos - x / root * sin
            out.append(self.zeta * power * slope)
        if order > 1:
            bend = -sin / root**3
            out.append(self.zeta * power * (0.5 * (self.zeta - 1.0) * slope.square() / h + bend))
        return out


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cosine: Tensor, mean: Tensor, weight: Tensor, pointer: Tensor, functions: AngularSum
    ) -> Tensor:
        ctx.save_for_backward(cosine, mean, weight, pointer)
        ctx.functions = functions
        (g,), (a,) = functions.gauss(mean, 0), functions.angle(cosine, 0)
        return segment_sum(_outer(g * weight.unsqueeze(1), a), pointer)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        return *_SumGradient.apply(grads[0], *ctx.saved_tensors, ctx.functions), None, None


class _SumGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        cosine: Tensor,
        mean: Tensor,
        weight: Tensor,
        pointer: Tensor,
        functions: AngularSum,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(grad, cosine, mean, weight, pointer)
        ctx.functions = functions
        (g, dg), (a, da) = functions.gauss(mean, 1), functions.angle(cosine, 1)
        spread = segment_spread(grad, pointer).view(-1, g.shape[1], a.shape[1])
        by_a = _inner(spread, a)
        return weight * (g * _inner(spread, da)).sum(1), weight * (dg * by_a).sum(1), (g * by_a).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        grad, cosine, mean, weight, pointer = ctx.saved_tensors
        (g, dg, ddg), (a, da, dda) = ctx.functions.gauss(mean, 2), ctx.functions.angle(cosine, 2)
        spread = segment_spread(grad, pointer).view(-1, g.shape[1], a.shape[1])
        by_a, by_da, by_dda = _inner(spread, a), _inner(spread, da), _inner(spread, dda)
        x, m, w = (vector.unsqueeze(1) for vector in v)
        xw, mw = x * weight.unsqueeze(1), m * weight.unsqueeze(1)
        p, q = xw * g, mw * dg + w * g
        by_grad = segment_sum(_outer(p, da) + _outer(q, a), pointer)
        by_cosine = (p * by_dda + q * by_da).sum(1)
        by_mean = (xw * dg * by_da + (mw * ddg + w * dg) * by_a).sum(1)
        by_weight = (x * g * by_da + m * dg * by_a).sum(1)
        return by_grad, by_cosine, by_mean, by_weight, None, None


def _outer(g: Tensor, a: Tensor) -> Tensor:
    """[triples, shifts], [triples, angles] -> [triples, shifts * angles]."""
    return (g.unsqueeze(2) * a.unsqueeze(1)).flatten(1)


def _inner(spread: Tensor, a: Tensor) -> Tensor:
    """[triples, shifts, angles], [triples, angles] -> [triples, shifts]."""
    return torch.bmm(spread, a.unsqueeze(2)).squeeze(2)
