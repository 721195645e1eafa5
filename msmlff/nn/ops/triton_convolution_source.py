"""Source of the convolution's kernels, written out for given paths.

Names in the source: ``f`` phi of a block of edges, ``r`` R = phi W of a path, ``x`` the sender's features,
``g`` the receiver's gradient, ``y`` harmonics, ``t`` sum over (m1, m3) of C x g. A name with a ``v`` before
it is the derivative along the direction (vh, vphi, vW, vY): the kernels of the second derivative are the
tangents of the first derivative's, with g held fixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from msmlff.nn.e3nn_import import wigner_3j
from msmlff.nn.ops.triton_common import Writer, compile_source, total
from msmlff.nn.ops.types import Path

_CONSTANTS = ("K", "N", "NP", "HM", "YM", "BE", "BK", "PRECISION", "INDEX", "MOVES_W")


@dataclass(frozen=True)
class PathTable:
    """The paths of a convolution and where their results stand."""

    paths: tuple[Path, ...]

    def coupling(self, p: int) -> np.ndarray:
        """C [2 l1 + 1, 2 l2 + 1, 2 l3 + 1] of path p."""
        path = self.paths[p]
        return math.sqrt(2 * path.l3 + 1) * wigner_3j(path.l1, path.l2, path.l3)

    def reaching(self, l3: int) -> list[int]:
        """The paths to l3."""
        return [p for p, path in enumerate(self.paths) if path.l3 == l3]

    @property
    def reached(self) -> list[int]:
        """The l3 of the results, ascending."""
        return sorted({path.l3 for path in self.paths})

    def place(self, p: int, m3: int, atom: str) -> str:
        """Source of the offset of component m3 of path p of an atom in the result of its l3."""
        l3 = self.paths[p].l3
        of_l3 = self.reaching(l3)
        return f"((({atom}) * {2 * l3 + 1} + {m3}) * {len(of_l3)} + {of_l3.index(p)}) * K"


@cache
def kernels(paths: tuple[Path, ...]) -> dict[str, Any]:
    """The kernels receive, send, edge and weigh, and their tangents with ``_tangent`` in the name."""
    writer, table = Writer(), PathTable(paths)
    for tangent in (False, True):
        _receive(writer, table, tangent)
        _send(writer, table, tangent)
        _edge(writer, table, tangent)
        _weigh(writer, table, tangent)
    return compile_source("convolution", writer)


def _names(tangent: bool, *names: str) -> list[str]:
    """Names, followed by those of their tangents."""
    return [*names, *(f"v{n}" for n in names)] if tangent else list(names)


def _suffix(tangent: bool) -> str:
    return "_tangent" if tangent else ""


def _load_weight(w: Writer, p: int, tangent: bool) -> None:
    """wp [NP, BK]: the weights of path p."""
    place = f"({p} * N + n[:, None]) * K + k[None, :]"
    mask = "(n < N)[:, None] & (k < K)[None, :]"
    w(f"wp = tl.load(w + {place}, mask={mask}, other=0.0)")
    if tangent:
        with w.block("if MOVES_W:"):
            w(f"vwp = tl.load(vw + {place}, mask={mask}, other=0.0)")


def _load_phi(w: Writer, tangent: bool) -> None:
    """f [BE, NP]: phi of the block's edges e."""
    for v in _names(tangent, ""):
        mask = "live[:, None] & (n < N)[None, :]"
        w(f"{v}f = tl.load({v}phi + e[:, None] * N + n[None, :], mask={mask}, other=0.0)")


def _dot(a: str, b: str, plus: str = "") -> str:
    acc = f"acc={plus}, " if plus else ""
    return f"tl.dot({a}, {b}, {acc}input_precision=PRECISION, out_dtype=phi.dtype.element_ty)"


def _radial(w: Writer, tangent: bool) -> None:
    """r [BE, BK] = f wp; zero where there is no edge or no channel."""
    w(f"r = {_dot('f', 'wp')}")
    if tangent:
        w(f"vr = {_dot('vf', 'wp')}")
        with w.block("if MOVES_W:"):
            w(f"vr = {_dot('f', 'vwp', 'vr')}")


def _load_harmonics(w: Writer, l2: int, tangent: bool) -> None:
    """y0, y1, .. [BE] of one l2."""
    for v in _names(tangent, ""):
        for m in range(2 * l2 + 1):
            w(f"{v}y{m} = tl.load({v}y + e * YM + {l2 * l2 + m}, mask=live, other=0.0)")


def _load_atom(w: Writer, name: str, tensor: str) -> None:
    """[BE, 1] atom of each edge; offsets into atoms' tensors need 64 bits only where those are large."""
    w(f"{name} = tl.load({tensor} + e, mask=live, other=0).to(INDEX)[:, None]")


def _load_tile(w: Writer, name: str, tensor: str, place: str) -> None:
    """One value for each edge and channel, gathered from an atom's row."""
    w(f"{name} = tl.load({tensor} + {place} + k[None, :], mask=inside, other=0.0)")


def _angular(c: np.ndarray, m1: int, m3: int, v: str = "") -> str:
    """Source of Q[m1, m3] = sum over m2 of C y [BE, 1], or '' where it vanishes."""
    terms = [(float(c[m1, m2, m3]), f"{v}y{m2}") for m2 in range(c.shape[1]) if abs(c[m1, m2, m3]) > 1e-12]
    return f"({total(terms)})[:, None]" if terms else ""


def _pairs(c: np.ndarray) -> Iterator[tuple[int, int]]:
    """(m1, m3) that couple, by m3."""
    return (
        (m1, m3) for m3 in range(c.shape[2]) for m1 in range(c.shape[0]) if np.abs(c[m1, :, m3]).max() > 1e-12
    )


def _receive(w: Writer, table: PathTable, tangent: bool) -> None:
    """A of one row: sum over its edges of r x Q; or its derivative along v."""
    tensors = [
        *_names(tangent, "h", "phi", "w", "y"),
        "sender",
        "row_ptr",
        *(f"out{l}" for l in table.reached),
    ]
    with w.kernel("receive" + _suffix(tangent), tensors, _CONSTANTS):
        _row_header(w, "row_ptr")
        for p, path in enumerate(table.paths):
            c = table.coupling(p)
            _load_weight(w, p, tangent)
            _zeros(w, [f"a{m3}" for m3 in range(c.shape[2])])
            with w.block("for first in range(start, end, BE):"):
                w("e = first + tl.arange(0, BE)", "live = e < end")
                _load_atom(w, "atom", "sender")
                _edge_block(w, path, tangent)
                for m1 in range(c.shape[0]):
                    for v in _names(tangent, ""):
                        _load_tile(w, f"{v}x", f"{v}h", f"(atom * HM + {path.l1**2 + m1}) * K")
                    if tangent:
                        w("vx = vr * x + r * vx")
                    w("x = r * x")
                    for m3 in range(c.shape[2]):
                        _add_products(w, f"a{m3}", c, m1, m3, ("x", "vx"), tangent)
            for m3 in range(c.shape[2]):
                place = f"out{path.l3} + {table.place(p, m3, 'row')} + k"
                w(f"tl.store({place}, tl.sum(a{m3}, axis=0), mask=k < K)")


def _send(w: Writer, table: PathTable, tangent: bool) -> None:
    """dE/dh of one sender: sum over its edges of r Q g; or its derivative along (vphi, vW, vY)."""
    grads = [f"g{l}" for l in table.reached]
    tensors = [*_names(tangent, "phi", "w", "y"), "receiver", "by_sender", "sender_ptr", *grads, "out"]
    with w.kernel("send" + _suffix(tangent), tensors, _CONSTANTS):
        _row_header(w, "sender_ptr")
        for l1 in sorted({path.l1 for path in table.paths}):
            _zeros(w, [f"a{m1}" for m1 in range(2 * l1 + 1)])
            for p, path in enumerate(table.paths):
                if path.l1 == l1:
                    _send_path(w, table, p, tangent)
            for m1 in range(2 * l1 + 1):
                place = f"out + (row * HM + {l1 * l1 + m1}) * K + k"
                w(f"tl.store({place}, tl.sum(a{m1}, axis=0), mask=k < K)")


def _send_path(w: Writer, table: PathTable, p: int, tangent: bool) -> None:
    c, path = table.coupling(p), table.paths[p]
    _load_weight(w, p, tangent)
    with w.block("for first in range(start, end, BE):"):
        w("place = first + tl.arange(0, BE)", "live = place < end")
        w("e = tl.load(by_sender + place, mask=live, other=0)")
        _load_atom(w, "atom", "receiver")
        _edge_block(w, path, tangent)
        for m3 in range(c.shape[2]):
            _load_tile(w, "g", f"g{path.l3}", table.place(p, m3, "atom"))
            if tangent:
                w("vg = vr * g")
            w("g = r * g")
            for m1 in range(c.shape[0]):
                _add_products(w, f"a{m1}", c, m1, m3, ("g", "vg"), tangent)


def _row_header(w: Writer, pointer: str) -> None:
    w("row = tl.program_id(0).to(INDEX)")
    w("k = tl.program_id(1) * BK + tl.arange(0, BK)", "n = tl.arange(0, NP)")
    w(f"start = tl.load({pointer} + row)", f"end = tl.load({pointer} + row + 1)")


def _zeros(w: Writer, names: list[str]) -> None:
    w(*(f"{name} = tl.zeros([BE, BK], dtype=phi.dtype.element_ty)" for name in names))


def _edge_block(w: Writer, path: Path, tangent: bool) -> None:
    """What a block of edges e of a row needs of them: mask, r and y."""
    w("inside = live[:, None] & (k < K)[None, :]")
    _load_phi(w, tangent)
    _radial(w, tangent)
    _load_harmonics(w, path.l2, tangent)


def _add_products(
    w: Writer, target: str, c: np.ndarray, m1: int, m3: int, factors: tuple[str, str], tangent: bool
) -> None:
    """target += factor Q[m1, m3], or the tangent of that product."""
    q = _angular(c, m1, m3)
    if q and tangent:
        w(f"{target} += {factors[1]} * {q} + {factors[0]} * {_angular(c, m1, m3, 'v')}")
    elif q:
        w(f"{target} += {factors[0]} * {q}")


def _edge(w: Writer, table: PathTable, tangent: bool) -> None:
    """dE/dphi and dE/dY of a block of edges, all channels; or their derivatives along v."""
    grads = [f"g{l}" for l in table.reached]
    tensors = [*_names(tangent, "h", "phi", "w", "y"), "sender", "receiver", *grads, "dphi", "dy"]
    with w.kernel("edge" + _suffix(tangent), tensors, _CONSTANTS, ["num_edges"]):
        w("e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)", "live = e < num_edges")
        w("n = tl.arange(0, NP)")
        _load_atom(w, "sent", "sender")
        _load_atom(w, "atom", "receiver")
        _load_phi(w, tangent)
        w("df = tl.zeros([BE, NP], dtype=phi.dtype.element_ty)")
        for l2 in sorted({path.l2 for path in table.paths}):
            _load_harmonics(w, l2, tangent)
            w(*(f"dy{m} = tl.zeros([BE], dtype=phi.dtype.element_ty)" for m in range(2 * l2 + 1)))
            for p, path in enumerate(table.paths):
                if path.l2 == l2:
                    with w.block("for first in range(0, K, BK):"):
                        _edge_path(w, table, p, tangent)
            w(*(f"tl.store(dy + e * YM + {l2 * l2 + m}, dy{m}, mask=live)" for m in range(2 * l2 + 1)))
        mask = "live[:, None] & (n < N)[None, :]"
        w(f"tl.store(dphi + e[:, None] * N + n[None, :], df, mask={mask})")


def _edge_path(w: Writer, table: PathTable, p: int, tangent: bool) -> None:
    """Adds to df and dy what BK channels of one path give."""
    l2 = table.paths[p].l2
    w("k = first + tl.arange(0, BK)", "inside = live[:, None] & (k < K)[None, :]")
    _load_weight(w, p, tangent)
    _radial(w, tangent)
    _triple_products(w, table, p, tangent)
    for m2 in range(2 * l2 + 1):
        product = f"vr * t{m2} + r * vt{m2}" if tangent else f"r * t{m2}"
        w(f"dy{m2} += tl.sum({product}, axis=1)")
    _contract_harmonics(w, l2, tangent)
    w(f"df = {_dot('vs' if tangent else 's', 'tl.trans(wp)', 'df')}")
    if tangent:
        with w.block("if MOVES_W:"):
            w(f"df = {_dot('s', 'tl.trans(vwp)', 'df')}")


def _triple_products(w: Writer, table: PathTable, p: int, tangent: bool) -> None:
    """t[m2] [BE, BK] = sum over m1, m3 of C x g."""
    c, path = table.coupling(p), table.paths[p]
    for m1 in range(c.shape[0]):
        for v in _names(tangent, ""):
            _load_tile(w, f"{v}x{m1}", f"{v}h", f"(sent * HM + {path.l1**2 + m1}) * K")
    started: set[int] = set()
    loaded = -1
    for m1, m3 in _pairs(c):
        if m3 != loaded:
            _load_tile(w, "g", f"g{path.l3}", table.place(p, m3, "atom"))
            loaded = m3
        for v in _names(tangent, ""):
            w(f"{v}z = {v}x{m1} * g")
        for m2 in np.flatnonzero(np.abs(c[m1, :, m3]) > 1e-12).tolist():
            for v in _names(tangent, ""):
                product = total([(float(c[m1, m2, m3]), f"{v}z")])
                w(f"{v}t{m2} {'+' if m2 in started else ''}= {product}")
            started.add(m2)


def _contract_harmonics(w: Writer, l2: int, tangent: bool) -> None:
    """s [BE, BK] = sum over m2 of y t, the gradient of r."""
    w("s = " + " + ".join(f"y{m}[:, None] * t{m}" for m in range(2 * l2 + 1)))
    if tangent:
        parts = (f"vy{m}[:, None] * t{m} + y{m}[:, None] * vt{m}" for m in range(2 * l2 + 1))
        w("vs = " + " + ".join(parts))


def _weigh(w: Writer, table: PathTable, tangent: bool) -> None:
    """dE/dW of one path from a chunk of edges: sum of phi s; or its derivative along (vh, vphi, vY)."""
    grads = [f"g{l}" for l in table.reached]
    tensors = [*_names(tangent, "h", "phi", "y"), "sender", "receiver", *grads, "part"]
    with w.kernel("weigh" + _suffix(tangent), tensors, _CONSTANTS, ["num_edges", "per_chunk"]):
        w("path = tl.program_id(0)", "k = tl.program_id(1) * BK + tl.arange(0, BK)", "n = tl.arange(0, NP)")
        w("start = tl.program_id(2).to(tl.int64) * per_chunk")
        w("end = tl.minimum(start + per_chunk, num_edges)")
        w("total = tl.zeros([NP, BK], dtype=phi.dtype.element_ty)")
        for p, path in enumerate(table.paths):
            with w.block(f"if path == {p}:"), w.block("for first in range(start, end, BE):"):
                w("e = first + tl.arange(0, BE)", "live = e < end")
                w("inside = live[:, None] & (k < K)[None, :]")
                _load_atom(w, "sent", "sender")
                _load_atom(w, "atom", "receiver")
                _load_phi(w, tangent)
                _load_harmonics(w, path.l2, tangent)
                _triple_products(w, table, p, tangent)
                _contract_harmonics(w, path.l2, tangent)
                w(f"total = {_dot('tl.trans(f)', 'vs' if tangent else 's', 'total')}")
                if tangent:
                    w(f"total = {_dot('tl.trans(vf)', 's', 'total')}")
        row = f"((tl.program_id(2).to(tl.int64) * {len(table.paths)} + path) * N + n[:, None])"
        w(f"tl.store(part + {row} * K + k[None, :], total, mask=(n < N)[:, None] & (k < K)[None, :])")
