"""Convolution over neighbours, block by block, with first and second derivatives derived by hand.

With R = phi W, a message M[s, m, k] = R[s, k] h[j_s, m, k] and an angular factor Q[s, m, c] = C Y, a path is
A[i, c, k] = sum over the slots s of row i and over m of Q M. It is linear in each of phi, W, h and Y, so its
gradients are the same products with operands exchanged. Nothing of size slots x paths x channels outlives its
block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msmlff.nn.edges import ScaleEdges
from msmlff.nn.ops import twice
from msmlff.nn.ops.twice import Gradients, Tensors
from msmlff.nn.ops.types import Path


def convolution(
    features: Tensor,
    phi: Tensor,
    weight: Tensor,
    couplings: Sequence[Tensor],
    paths: Sequence[Path],
    edges: ScaleEdges,
) -> list[Tensor]:
    """As ``reference.convolution``, differentiable twice."""
    spec = _Spec(tuple(paths), tuple(couplings), edges, weight.shape[2])
    return list(twice.apply(_Convolution(spec), features, phi, weight, edges.harmonics))


@dataclass(frozen=True)
class _Spec:
    paths: tuple[Path, ...]
    couplings: tuple[Tensor, ...]
    edges: ScaleEdges
    channels: int

    def column(self, p: int) -> slice:
        """Where path p stands among the paths to its l3."""
        first = next(q for q, path in enumerate(self.paths) if path.l3 == self.paths[p].l3)
        return slice((p - first) * self.channels, (p - first + 1) * self.channels)

    def outputs(self, like: Tensor) -> list[Tensor]:
        """Uninitialised results: for each l3, [atoms, 2 l3 + 1, paths to l3 * channels]."""
        atoms = sum(rows for rows, _ in self.edges.blocks.shapes)
        count = [sum(p.l3 == l for p in self.paths) for l in range(self.paths[-1].l3 + 1)]
        return [like.new_empty(atoms, 2 * l + 1, n * self.channels) for l, n in enumerate(count)]

    def blocks(self) -> Iterator[_Block]:
        slot = row = 0
        for rows, width in self.edges.blocks.shapes:
            yield _Block(slice(slot, slot + rows * width), slice(row, row + rows), rows, width)
            slot, row = slot + rows * width, row + rows


@dataclass(frozen=True)
class _Block:
    slots: slice
    rows: slice
    num_rows: int
    width: int

    def by_row(self, values: Tensor) -> Tensor:
        """[slots, m, x] -> [rows, width * m, x]."""
        return values.reshape(self.num_rows, self.width * values.shape[1], values.shape[2])

    def sum(self, q: Tensor, message: Tensor) -> Tensor:
        """sum over slots and m of q [slots, m, c] message [slots, m, k] -> [rows, c, k]."""
        return torch.bmm(self.by_row(q).transpose(1, 2), self.by_row(message))

    def spread(self, q: Tensor, grad: Tensor) -> Tensor:
        """sum over c of q [slots, m, c] grad [rows, c, k] -> [slots, m, k]."""
        return torch.bmm(self.by_row(q), grad).view(q.shape[0], q.shape[1], -1)

    def project(self, message: Tensor, grad: Tensor) -> Tensor:
        """sum over k of message [slots, m, k] grad [rows, c, k] -> [slots, m, c]."""
        product = torch.bmm(self.by_row(message), grad.transpose(1, 2))
        return product.view(message.shape[0], message.shape[1], -1)


def _lm(l: int) -> slice:
    return slice(l * l, (l + 1) * (l + 1))


def _angular(y: Tensor, path: Path, coupling: Tensor) -> Tensor:
    """Q [slots, 2 l1 + 1, 2 l3 + 1] of a path from Y [slots, lm]."""
    part = y[:, _lm(path.l2)]
    if path.l1 == 0:
        return part.unsqueeze(1)
    return (part @ coupling).view(-1, 2 * path.l1 + 1, 2 * path.l3 + 1)


def _add_angular(target: Tensor, grad: Tensor, path: Path, coupling: Tensor) -> None:
    """Adds to the gradient of Y what the gradient of a path's Q gives."""
    flat = grad.flatten(1)
    target[:, _lm(path.l2)] += flat if path.l1 == 0 else flat @ coupling.t()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """sum over m of a [slots, m, k] b [slots, m, k] -> [slots, k]."""
    total = a[:, 0] * b[:, 0]
    for m in range(1, a.shape[1]):
        total.addcmul_(a[:, m], b[:, m])
    return total


class _Convolution:
    """(h, phi, W, Y) -> A of each l3."""

    kinds: tuple[str, ...] = ("features", "features", "weight", "geometry")

    def __init__(self, spec: _Spec) -> None:
        self.spec = spec

    def value(self, inputs: Tensors) -> Tensors:
        h, phi, weight, y = inputs
        spec, out = self.spec, self.spec.outputs(h)
        for block in spec.blocks():
            sent = h.index_select(0, spec.edges.sender[block.slots])
            phi_b, y_b = phi[block.slots], y[block.slots]
            for p, path in enumerate(spec.paths):
                message = (phi_b @ weight[p]).unsqueeze(1) * sent[:, _lm(path.l1)]
                q = _angular(y_b, path, spec.couplings[p])
                out[path.l3][block.rows, :, spec.column(p)] = block.sum(q, message)
        return out

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        h, phi, weight, y = inputs
        spec, (need_h, need_phi, need_weight, need_y) = self.spec, needed
        grad_h, grad_phi, grad_weight, grad_y = results = [torch.zeros_like(t) for t in inputs]
        for block in spec.blocks():
            sender = spec.edges.sender[block.slots]
            sent, phi_b, y_b = h.index_select(0, sender), phi[block.slots], y[block.slots]
            grad_sent = torch.zeros_like(sent)
            for p, path in enumerate(spec.paths):
                lm, grad = _lm(path.l1), grads[path.l3][block.rows, :, spec.column(p)]
                radial = phi_b @ weight[p]
                grad_message = block.spread(_angular(y_b, path, spec.couplings[p]), grad)
                grad_radial = _dot(grad_message, sent[:, lm])
                if need_phi:
                    grad_phi[block.slots].addmm_(grad_radial, weight[p].t())
                if need_weight:
                    grad_weight[p].addmm_(phi_b.t(), grad_radial)
                if need_y:
                    projected = block.project(radial.unsqueeze(1) * sent[:, lm], grad)
                    _add_angular(grad_y[block.slots], projected, path, spec.couplings[p])
                if need_h:
                    grad_sent[:, lm].addcmul_(grad_message, radial.unsqueeze(1))
            if need_h:
                grad_h.index_add_(0, sender, grad_sent)
        return [r if n else None for r, n in zip(results, needed, strict=True)]

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        second = _SecondDerivative(self.spec, inputs, grads, v, needed)
        for block in self.spec.blocks():
            second.add(block)
        return second.inputs, second.grads


class _SecondDerivative:
    """Gradient of <v, dE/d(h, phi, W, Y)> with respect to (h, phi, W, Y) and to dE/dA, summed over blocks."""

    def __init__(
        self,
        spec: _Spec,
        inputs: Tensors,
        grads: Tensors,
        v: Gradients,
        needed: Sequence[bool],
    ) -> None:
        self.spec, self.values, self.given = spec, inputs, grads
        self.need_y = needed[3]
        self.v = [torch.zeros_like(x) if d is None else d for x, d in zip(inputs, v, strict=True)]
        self.moves_weight = v[2] is not None
        self.inputs = tuple(torch.zeros_like(x) for x in inputs)
        self.grads = spec.outputs(inputs[0])

    def add(self, block: _Block) -> None:
        """Adds one block's part."""
        spec, (h, phi, weight, y), (vh, vphi, vweight, vy) = self.spec, self.values, self.v
        out_h, out_phi, out_weight, out_y = self.inputs
        sender = spec.edges.sender[block.slots]
        sent, vsent = h.index_select(0, sender), vh.index_select(0, sender)
        phi_b, vphi_b, y_b, vy_b = (x[block.slots] for x in (phi, vphi, y, vy))
        out_sent = torch.zeros_like(sent)
        for p, path in enumerate(spec.paths):
            lm, coupling = _lm(path.l1), spec.couplings[p]
            grad = self.given[path.l3][block.rows, :, spec.column(p)]
            q, vq = _angular(y_b, path, coupling), _angular(vy_b, path, coupling)
            radial, vradial = phi_b @ weight[p], vphi_b @ weight[p]
            if self.moves_weight:
                vradial.addmm_(phi_b, vweight[p])
            message = radial.unsqueeze(1) * sent[:, lm]
            vmessage = (vradial.unsqueeze(1) * sent[:, lm]).addcmul_(radial.unsqueeze(1), vsent[:, lm])
            out = block.sum(q, vmessage).add_(block.sum(vq, message))
            self.grads[path.l3][block.rows, :, spec.column(p)] = out
            if self.need_y:
                _add_angular(out_y[block.slots], block.project(vmessage, grad), path, coupling)

            along_q, along_vq = block.spread(q, grad), block.spread(vq, grad)
            of_vradial = _dot(along_q, sent[:, lm])
            of_radial = _dot(along_q, vsent[:, lm]).add_(_dot(along_vq, sent[:, lm]))
            out_phi[block.slots].addmm_(of_radial, weight[p].t())
            out_weight[p].addmm_(phi_b.t(), of_radial).addmm_(vphi_b.t(), of_vradial)
            if self.moves_weight:
                out_phi[block.slots].addmm_(of_vradial, vweight[p].t())
            out_sent[:, lm].addcmul_(along_q, vradial.unsqueeze(1)).addcmul_(along_vq, radial.unsqueeze(1))
        out_h.index_add_(0, sender, out_sent)
