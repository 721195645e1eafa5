"""Convolution over neighbours in Triton, with first and second derivatives derived by hand.

Four kernels, each with its tangent for the second derivative; one launch each:

    receive   A of a receiver             one program for each row and 32 channels, all paths in turn
    send      dE/dh of a sender           the same over the edges sorted by sender
    edge      dE/dphi, dE/dY of 16 edges  all channels and paths in turn
    weigh     dE/dW of a path             parts of the edges; then the sum over the parts

R = phi W of a block of edges is a product of matrices that is used where it is formed, so memory holds
nothing of size edges x channels; no kernel uses atomics, and every sum has a fixed order.

Floors, for E edges, K channels, P paths and n radial functions: R costs 2 n P K E operations, the products
with Clebsch-Gordan coefficients 2 sum (2 l1 + 1)(2 l3 + 1) K E. With n 64, K 128, hidden l 1 and edges' l 3
(10 paths) that is 164 and 23 thousand operations an edge: R decides, and with it whether TF32 is allowed.
``receive`` and ``send`` form R once, ``edge`` R and its adjoint, ``weigh`` the adjoint to W. ``receive``
gathers (l_hidden + 1)^2 K numbers an edge, ``send`` K for each component of A, which is why neighbouring
programs take the same channels: 32 channels of some thousand atoms stay in the L2 cache. The weights of a
path are read once a row, not once a block of edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from msmlff.nn.edges import Rows, ScaleEdges
from msmlff.nn.ops import twice
from msmlff.nn.ops.triton_common import FILL, Tile, ceil_div, dot_precision, launch, power_of_two
from msmlff.nn.ops.triton_convolution_source import PathTable, kernels
from msmlff.nn.ops.twice import Gradients, Tensors
from msmlff.nn.ops.types import Path

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def convolution(
    features: Tensor,
    phi: Tensor,
    weight: Tensor,
    couplings: Sequence[Tensor],
    paths: Sequence[Path],
    edges: ScaleEdges,
) -> list[Tensor]:
    """As ``reference.convolution``, differentiable twice, on edges without padding.

    Args:
        features: [atoms, (l_hidden + 1)^2, channels].
        phi: [edges, n], last hidden layer of the radial network.
        weight: [paths, n, channels], its last layer.
        couplings: for each path [2 l2 + 1, (2 l1 + 1) (2 l3 + 1)]: those of ``ScaleConvolution``, which the
            kernels hold as constants.
        paths: ascending in l3.
        edges: the scale's edges in rows.

    Returns:
        for each l3, [atoms, 2 l3 + 1, paths to l3 * channels], in the order of the atoms.

    Raises:
        ValueError: the couplings are not those of the paths.
    """
    table = PathTable(tuple(paths))
    _check_couplings(table, couplings)
    assert isinstance(edges.rows, Rows)
    operation = Convolution(Spec.build(table, edges.rows, (features, phi, weight, edges.harmonics)))
    return list(twice.apply(operation, features, phi, weight, edges.harmonics))


class Convolution:
    """(h, phi, W, Y) -> A of each l3; an operation as ``twice`` takes them."""

    kinds: tuple[str, ...] = ("features", "features", "weight", "geometry")

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def value(self, inputs: Tensors) -> Tensors:
        return receive(self.spec, _four(inputs))

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        return _derivatives(self.spec, _four(inputs), _contiguous(grads), needed)

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        given = _four(inputs)
        direction = Direction.build(given, v)
        of_inputs = _derivatives(self.spec, given, _contiguous(grads), needed, direction)
        return of_inputs, receive(self.spec, given, direction)


_CHECKED: set[tuple[Path, ...]] = set()


def _check_couplings(table: PathTable, couplings: Sequence[Tensor]) -> None:
    """Compares couplings with the kernels' constants, the first time these paths are seen."""
    if table.paths in _CHECKED:
        return
    for p, coupling in enumerate(couplings):
        expected = torch.from_numpy(table.coupling(p)).transpose(0, 1).flatten(1)
        given = coupling.detach().cpu().double()
        if given.shape != expected.shape or not torch.allclose(given, expected, atol=1e-5):
            raise ValueError(
                f"coupling {p} is not that of {table.paths[p]}: sqrt(2 l3 + 1) times the 3j symbols"
            )
    _CHECKED.add(table.paths)


@dataclass(frozen=True)
class Direction:
    """Where the inputs (h, phi, W, Y) move in a second derivative; a W that rests is not read."""

    tensors: Inputs
    moves_weight: bool

    @classmethod
    def build(cls, inputs: Inputs, v: Sequence[Tensor | None]) -> Direction:
        """None stands for an input that rests."""
        rest = [x if i == 2 else torch.zeros_like(x) for i, x in enumerate(inputs) if v[i] is None]
        moved = [rest.pop(0) if d is None else d.contiguous() for d in v]
        return cls((moved[0], moved[1], moved[2], moved[3]), v[2] is not None)


@dataclass(frozen=True)
class Spec:
    """One convolution: its paths, its edges, and the sizes its kernels are compiled for."""

    table: PathTable
    rows: Rows
    features: int
    harmonics: int
    radial: int
    channels: int

    @classmethod
    def build(cls, table: PathTable, rows: Rows, inputs: Inputs) -> Spec:
        """The convolution of (h, phi, W, Y) on edges in rows."""
        h, phi, weight, y = inputs
        return cls(table, rows, h.shape[1], y.shape[1], phi.shape[1], weight.shape[2])

    def tile(self, kernel: str, v: Direction | None, dtype: torch.dtype) -> Tile:
        """The tile of a kernel or of its tangent."""
        return tile_of(kernel, v is not None, self.channels, dtype)

    def run(
        self, kernel: str, v: Direction | None, tile: Tile, grid: tuple[int, ...], arguments: Sequence[Any]
    ) -> None:
        """Launches a kernel, or its tangent where there is a direction."""
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        code = kernels(self.table.paths)
        index = code["tl"].int64 if max(a.numel() for a in tensors) >= 1 << 31 else code["tl"].int32
        padded = power_of_two(self.radial, 16, 1 << 16)
        sizes = (self.channels, self.radial, padded, self.features, self.harmonics)
        name = kernel if v is None else kernel + "_tangent"
        moves_weight = v is not None and v.moves_weight
        options = (tile.rows, tile.channels, dot_precision(tensors[0].dtype), index, moves_weight)
        launch(code[name], grid, (*arguments, *sizes, *options), tile.warps)


#: The tiles for float32. All kernels but ``weigh`` fill a thread's 255 registers; with these tiles the
#: compiler spills little (scripts/gpu_registers.py), with wider ones or fewer warps hundreds of bytes to
#: kilobytes. In ``edge``, warps beyond the second repeat each other's R. Chosen by spills, not by times.
TILES = {
    ("receive", False): Tile(16, 32, 2),
    ("receive", True): Tile(16, 32, 2),
    ("send", False): Tile(16, 32, 2),
    ("send", True): Tile(16, 32, 2),
    ("edge", False): Tile(16, 16, 4),
    ("edge", True): Tile(16, 16, 8),
    ("weigh", False): Tile(32, 32, 4),
    ("weigh", True): Tile(16, 32, 4),
}


def tile_of(kernel: str, tangent: bool, channels: int, dtype: torch.dtype) -> Tile:
    """The tile of a kernel, narrower in float64 and for few channels; products of matrices need 16."""
    tile = TILES[kernel, tangent]
    widest = tile.channels // 2 if dtype == torch.float64 else tile.channels
    return Tile(tile.rows, power_of_two(channels, 16, max(16, widest)), tile.warps)


def _moved(v: Direction | None, *which: int) -> list[Tensor]:
    return [] if v is None else [v.tensors[i] for i in which]


def receive(spec: Spec, inputs: Inputs, v: Direction | None = None) -> list[Tensor]:
    """A, or its derivative along v."""
    h, rows = inputs[0], spec.rows
    tile = spec.tile("receive", v, h.dtype)
    out = [
        h.new_empty(len(rows.row_ptr) - 1, 2 * l + 1, len(spec.table.reaching(l)) * spec.channels)
        for l in spec.table.reached
    ]
    arguments = [*inputs, *_moved(v, 0, 1, 2, 3), rows.sender, rows.row_ptr, *out]
    grid = (len(rows.row_ptr) - 1, ceil_div(spec.channels, tile.channels))
    spec.run("receive", v, tile, grid, arguments)
    return out


def send(spec: Spec, inputs: Inputs, grads: Tensors, v: Direction | None = None) -> Tensor:
    """dE/dh, or its derivative along v."""
    h, rows = inputs[0], spec.rows
    tile = spec.tile("send", v, h.dtype)
    out = torch.zeros_like(h)
    arguments = [*inputs[1:], *_moved(v, 1, 2, 3), rows.receiver, *rows.by_sender, *grads, out]
    grid = (len(rows.row_ptr) - 1, ceil_div(spec.channels, tile.channels))
    spec.run("send", v, tile, grid, arguments)
    return out


def edge(spec: Spec, inputs: Inputs, grads: Tensors, v: Direction | None = None) -> tuple[Tensor, Tensor]:
    """dE/dphi and dE/dY, or their derivatives along v."""
    _, phi, _, y = inputs
    rows, tile = spec.rows, spec.tile("edge", v, phi.dtype)
    out_phi, out_y = torch.empty_like(phi), torch.zeros_like(y)
    moved = _moved(v, 0, 1, 2, 3)
    arguments = [*inputs, *moved, rows.sender, rows.receiver, *grads, out_phi, out_y, len(rows.sender)]
    spec.run("edge", v, tile, (ceil_div(len(rows.sender), tile.rows),), arguments)
    return out_phi, out_y


def weigh(spec: Spec, inputs: Inputs, grads: Tensors, v: Direction | None = None) -> Tensor:
    """dE/dW, or its derivative along v: one sum for each part of the edges, then the sum over the parts."""
    h, phi, weight, y = inputs
    rows, tile = spec.rows, spec.tile("weigh", v, phi.dtype)
    paths, columns = len(spec.table.paths), ceil_div(spec.channels, tile.channels)
    parts = max(1, min(FILL // (paths * columns), ceil_div(len(rows.sender), 4 * tile.rows)))
    per_part = tile.rows * max(1, ceil_div(len(rows.sender), parts * tile.rows))
    part = weight.new_empty(parts, *weight.shape)
    moved = _moved(v, 0, 1, 3)
    arguments = [h, phi, y, *moved, rows.sender, rows.receiver, *grads, part, len(rows.sender), per_part]
    spec.run("weigh", v, tile, (paths, columns, parts), arguments)
    return part.sum(dim=0)


def _derivatives(
    spec: Spec, inputs: Inputs, grads: Tensors, needed: Sequence[bool], v: Direction | None = None
) -> Gradients:
    """dE/d(h, phi, W, Y) as far as needed, or their derivatives along v with dE/dA fixed."""
    of_h = send(spec, inputs, grads, v) if needed[0] else None
    of_phi, of_y = edge(spec, inputs, grads, v) if needed[1] or needed[3] else (None, None)
    of_weight = weigh(spec, inputs, grads, v) if needed[2] else None
    return of_h, of_phi, of_weight, of_y


def _contiguous(tensors: Tensors) -> list[Tensor]:
    return [t.contiguous() for t in tensors]


def _four(tensors: Tensors) -> Inputs:
    h, phi, weight, y = _contiguous(tensors)
    return h, phi, weight, y
