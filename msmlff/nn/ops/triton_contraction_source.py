"""Source of the symmetric contraction's kernels, written out for given polynomials.

F_M(x) = sum over terms of c times a monomial. The monomials of a component M form a tree (x_a, x_a x_b, ..),
and F is evaluated down it as x_a (c_a + sum_b x_b (c_ab + ..)): one multiplication a term. Its gradient runs
the same tree with an adjoint at each node, another one or two a term. A name with a ``v`` before it is the
derivative along the direction (vx, vc), as in ``triton_convolution_source``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from msmlff.nn.coupling import folded_coupling
from msmlff.nn.ops.triton_common import Writer, compile_source
from msmlff.nn.ops.types import monomials

#: Terms whose sums over atoms one program of ``weigh`` holds in registers.
GROUP = 24
_CONSTANTS = ("K", "BA", "BK", "SPECIES", "PARTS")
Monomial = tuple[int, ...]


@dataclass(frozen=True)
class Polynomials:
    """The terms of all components M of L = 0 .. l_out, and how paths' weights give their coefficients.

    Attributes:
        dim: variables.
        terms: (M, monomial), ascending.
        matrices: for each L, [terms of its components, paths] float64.
    """

    dim: int
    terms: tuple[tuple[int, Monomial], ...]
    matrices: tuple[np.ndarray, ...]

    @property
    def components(self) -> int:
        """Number of M."""
        return self.terms[-1][0] + 1

    @property
    def groups(self) -> list[tuple[tuple[int, Monomial], ...]]:
        """The terms in pieces of ``GROUP``."""
        return [self.terms[a : a + GROUP] for a in range(0, len(self.terms), GROUP)]


@cache
def polynomials(dim: int, correlation: int, l_out: int) -> Polynomials:
    """The polynomials of ``nn.symmetric_contraction`` for couplings of ``dim`` = (l_max + 1)^2 factors."""
    l_max = round(dim**0.5) - 1
    terms: list[tuple[int, Monomial]] = []
    matrices = []
    for L in range(l_out + 1):
        tables = [folded_coupling(l_max, n, L) for n in range(1, correlation + 1)]
        paths, first = sum(t.shape[3] for t in tables), 0
        rows: dict[tuple[int, Monomial], np.ndarray] = {}
        for n, table in enumerate(tables, start=1):
            columns = slice(first, first + table.shape[3])
            lower, first = monomials(dim, n - 1), first + table.shape[3]
            for m, k, t in np.argwhere(np.abs(table).max(axis=3) > 0).tolist():
                term = (L * L + m, tuple(sorted((*lower[t], k))))
                rows.setdefault(term, np.zeros(paths))[columns] += table[m, k, t]
        terms += sorted(rows)
        matrices.append(np.stack([rows[term] for term in sorted(rows)]))
    return Polynomials(dim, tuple(terms), tuple(matrices))


@cache
def kernels(dim: int, correlation: int, l_out: int, moves_weight: bool) -> dict[str, Any]:
    """The kernels value, gradient, tangent (of both), weigh and weigh_tangent.

    ``moves_weight``: whether the tangent's direction has a part vc along the coefficients.
    """
    p, writer = polynomials(dim, correlation, l_out), Writer()
    _value(writer, p)
    _gradient(writer, p)
    _tangent(writer, p, moves_weight)
    _weigh(writer, p, tangent=False)
    _weigh(writer, p, tangent=True)
    return compile_source("contraction", writer)


class _Tree:
    """The monomials of one component: their children, and the coefficient's number where one is a term."""

    def __init__(self, p: Polynomials, component: int) -> None:
        self.number = {term[1]: t for t, term in enumerate(p.terms) if term[0] == component}
        self.children: dict[Monomial, list[int]] = {}
        for monomial in sorted(self.number):
            for depth in range(len(monomial)):
                siblings = self.children.setdefault(monomial[:depth], [])
                if monomial[depth] not in siblings:
                    siblings.append(monomial[depth])


@dataclass
class _Walk:
    """Writes the evaluation of one component's tree.

    Attributes:
        tangent: whether to write tangents.
        moves_weight: whether the coefficients have tangents.
        gradient: whether to add to the derivatives d0, d1, .. by the variables (or to their tangents).
    """

    w: Writer
    tree: _Tree
    tangent: bool = False
    moves_weight: bool = False
    gradient: bool = False

    def node(self, monomial: Monomial) -> tuple[str, str]:
        """Writes the value at a node; returns its name and that of its tangent ('' for zero)."""
        children, name = self.tree.children.get(monomial, []), f"s{len(monomial)}"
        value, tangent = self._coefficient(monomial, "u" if not children else name)
        for a in children:
            if self.gradient and (*monomial, a) in self.tree.children:
                self._adjoint(len(monomial), a)
            u, vu = self.node((*monomial, a))
            self._add(name, f"x{a} * {u}", started=bool(value))
            if self.tangent:
                moved = f"vx{a} * {u}" + (f" + x{a} * {vu}" if vu else "")
                self._add(f"v{name}", moved, started=bool(tangent))
                tangent = f"v{name}"
            value = name
            if self.gradient:
                self._derivative(len(monomial), a, u, vu)
        return value, tangent

    def _coefficient(self, monomial: Monomial, name: str) -> tuple[str, str]:
        number = self.tree.number.get(monomial)
        if number is None:
            return "", ""
        self.w(f"{name} = tl.load(c + row + {number} * K, mask=inside, other=0.0)")
        if not (self.tangent and self.moves_weight):
            return name, ""
        self.w(f"v{name} = tl.load(vc + row + {number} * K, mask=inside, other=0.0)")
        return name, f"v{name}"

    def _add(self, name: str, term: str, started: bool) -> None:
        self.w(f"{name} {'+' if started else ''}= {term}")

    def _adjoint(self, depth: int, a: int) -> None:
        """The adjoint of a child: that of the node, b, times x; at the root it is g and does not move."""
        above = f"b{depth}" if depth else "g"
        self.w(f"b{depth + 1} = {above} * x{a}")
        if self.tangent:
            self.w(f"vb{depth + 1} = {above} * vx{a}" + (f" + v{above} * x{a}" if depth else ""))

    def _derivative(self, depth: int, a: int, u: str, vu: str) -> None:
        above = f"b{depth}" if depth else "g"
        if not self.tangent:
            self.w(f"d{a} += {above} * {u}")
            return
        terms = ([f"{above} * {vu}"] if vu else []) + ([f"v{above} * {u}"] if depth else [])
        if terms:
            self.w(f"d{a} += " + " + ".join(terms))


def _header(w: Writer, p: Polynomials, tensors: Sequence[str]) -> None:
    """Which atoms and channels; ``row`` is where the coefficients of their species begin."""
    w("tile = tl.program_id(0)", "k = tl.program_id(1) * BK + tl.arange(0, BK)[None, :]", "known = k < K")
    w("z = 0", "first = tile * BA", "end = num_atoms")
    with w.block("if SPECIES > 1:"):
        w("before = 0")
        with w.block("for s in range(0, SPECIES):"):
            w("a = tl.load(species_ptr + s).to(tl.int32)", "b = tl.load(species_ptr + s + 1).to(tl.int32)")
            w("tiles = (b - a + BA - 1) // BA", "here = (tile >= before) & (tile < before + tiles)")
            w("z = tl.where(here, s, z)", "first = tl.where(here, a + (tile - before) * BA, first)")
            w("end = tl.where(here, b, end)", "before += tiles")
    _load_atoms(w)
    w(f"row = z * {len(p.terms)} * K + k + tl.zeros([BA, 1], dtype=tl.int32)")
    for tensor in tensors:
        _load_variables(w, tensor, range(p.dim), p.dim)


def _load_atoms(w: Writer) -> None:
    w("atom = first + tl.arange(0, BA)[:, None]", "inside = (atom < end) & known")
    with w.block("if SPECIES > 1:"):
        w("atom = tl.load(order + atom, mask=atom < end, other=0)")
    w("atom = atom.to(tl.int64)")


def _load_variables(w: Writer, tensor: str, which: Sequence[int], rows: int, name: str = "") -> None:
    """x0, x1, .. [BA, BK] of the atoms."""
    for i in which:
        place = f"{tensor} + (atom * {rows} + {i}) * K + k"
        w(f"{name or tensor}{i} = tl.load({place}, mask=inside, other=0.0)")


_SHARED = ("order", "species_ptr")


def _value(w: Writer, p: Polynomials) -> None:
    """F."""
    with w.kernel("value", ["x", "c", *_SHARED, "out"], _CONSTANTS, ["num_atoms"]):
        _header(w, p, ["x"])
        for component in range(p.components):
            name, _ = _Walk(w, _Tree(p, component)).node(())
            w(f"tl.store(out + (atom * {p.components} + {component}) * K + k, {name}, mask=inside)")


def _gradient(w: Writer, p: Polynomials) -> None:
    """dE/dx."""
    with w.kernel("gradient", ["x", "c", "grad", *_SHARED, "out"], _CONSTANTS, ["num_atoms"]):
        _header(w, p, ["x"])
        w(*(f"d{i} = tl.zeros([BA, BK], dtype=x.dtype.element_ty)" for i in range(p.dim)))
        for component in range(p.components):
            w(f"g = tl.load(grad + (atom * {p.components} + {component}) * K + k, mask=inside, other=0.0)")
            _Walk(w, _Tree(p, component), gradient=True).node(())
        w(*(f"tl.store(out + (atom * {p.dim} + {i}) * K + k, d{i}, mask=inside)" for i in range(p.dim)))


def _tangent(w: Writer, p: Polynomials, moves_weight: bool) -> None:
    """The derivatives of F and of dE/dx along (vx, vc) with dE/dF fixed."""
    tensors = ["x", "c", "grad", "vx", "vc", *_SHARED, "out", "out_grad"]
    with w.kernel("tangent", tensors, _CONSTANTS, ["num_atoms"]):
        _header(w, p, ["x", "vx"])
        w(*(f"d{i} = tl.zeros([BA, BK], dtype=x.dtype.element_ty)" for i in range(p.dim)))
        for component in range(p.components):
            place = f"(atom * {p.components} + {component}) * K + k"
            w(f"g = tl.load(grad + {place}, mask=inside, other=0.0)")
            walk = _Walk(w, _Tree(p, component), tangent=True, moves_weight=moves_weight, gradient=True)
            _, moved = walk.node(())
            w(f"tl.store(out_grad + {place}, {moved}, mask=inside)")
        w(*(f"tl.store(out + (atom * {p.dim} + {i}) * K + k, d{i}, mask=inside)" for i in range(p.dim)))


def _weigh(w: Writer, p: Polynomials, tangent: bool) -> None:
    """dE/dc of a group of terms, from each BA-th atom of a part of a species'; or its derivative along vx."""
    tensors = ["x", "grad", *(["vx"] if tangent else []), *_SHARED, "part"]
    with w.kernel("weigh_tangent" if tangent else "weigh", tensors, _CONSTANTS, ["num_atoms"]):
        w("k = tl.program_id(1) * BK + tl.arange(0, BK)[None, :]", "known = k < K")
        w("z = tl.program_id(2) // PARTS", "start = 0", "stop = num_atoms")
        with w.block("if SPECIES > 1:"):
            w(
                "start = tl.load(species_ptr + z).to(tl.int32)",
                "stop = tl.load(species_ptr + z + 1).to(tl.int32)",
            )
        w("length = (stop - start + PARTS - 1) // PARTS")
        w("start += (tl.program_id(2) % PARTS) * length", "end = tl.minimum(start + length, stop)")
        w("place = tl.program_id(2).to(tl.int64) * BA + tl.arange(0, BA)[:, None]")
        w(f"row = place * {len(p.terms)} * K + k")
        for group, terms in enumerate(p.groups):
            with w.block(f"if tl.program_id(0) == {group}:"):
                _weigh_group(w, p, group * GROUP, terms, tangent)


def _weigh_group(
    w: Writer, p: Polynomials, first: int, terms: Sequence[tuple[int, Monomial]], tangent: bool
) -> None:
    used = sorted({i for _, monomial in terms for i in monomial})
    w(*(f"t{t} = tl.zeros([BA, BK], dtype=x.dtype.element_ty)" for t in range(len(terms))))
    with w.block("for first in range(start, end, BA):"):
        _load_atoms(w)
        _load_variables(w, "grad", sorted({m for m, _ in terms}), p.components, "g")
        for tensor in ("x", "vx") if tangent else ("x",):
            _load_variables(w, tensor, used, p.dim)
        known: set[Monomial] = set()
        for t, (m, monomial) in enumerate(terms):
            for degree in range(2, len(monomial) + 1):
                if monomial[:degree] not in known:
                    known.add(monomial[:degree])
                    _product(w, monomial[:degree], tangent)
            w(f"t{t} += g{m} * {'v' if tangent else ''}{_monomial(monomial)}")
    for t in range(len(terms)):
        w(f"tl.store(part + row + {first + t} * K, t{t}, mask=k < K)")


def _monomial(monomial: Monomial) -> str:
    return f"x{monomial[0]}" if len(monomial) == 1 else "xx" + "_".join(map(str, monomial))


def _product(w: Writer, monomial: Monomial, tangent: bool) -> None:
    """A monomial from the one without its last factor."""
    lower, last, name = _monomial(monomial[:-1]), f"x{monomial[-1]}", _monomial(monomial)
    w(f"{name} = {lower} * {last}")
    if tangent:
        w(f"v{name} = v{lower} * {last} + {lower} * v{last}")
