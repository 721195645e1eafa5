"""What the Triton kernels share: generated source and launches.

A coupling has tens of coefficients, each used once a term: kernels are written out for the paths at hand, the
coefficients being constants, and compiled by Triton at their first launch. For l_max 3 that takes up to a
minute a kernel; Triton's cache on disk keeps them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import linecache
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

#: Earlier ones have no product of float64 matrices.
_OLDEST = (3, 6)
#: Multiprocessors times programs each holds: what a launch should offer at least to fill a large GPU.
FILL = 132 * 8


def interpreted() -> bool:
    """Whether Triton runs its kernels in its interpreter, on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def missing(device: str) -> str | None:
    """Why the kernels cannot run for tensors on "cuda" or "cpu", and what to do; None where they can."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "Triton is not installed; it comes with PyTorch for CUDA: pip install 'msmlff[cuda]'"
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        return f"Triton {version} is too old, it takes {_OLDEST[0]}.{_OLDEST[1]} or later: update PyTorch"
    if device != "cuda" and not interpreted():
        return f"it runs on CUDA GPUs, not on {device}"
    return None


def dot_precision(dtype: torch.dtype) -> str:
    """How products of matrices are formed: TF32 where torch allows it for its own; float32 in three of TF32.

    Three products of TF32 keep float32's accuracy to a few units in the last place; without tensor cores
    ("ieee") the same product takes several times as long and does not fit the registers.
    """
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"


@dataclass(frozen=True)
class Tile:
    """The piece of work of one program: rows (edges or atoms) x channels, by so many warps."""

    rows: int
    channels: int
    warps: int


class Writer:
    """Lines of source with their indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 0

    def __call__(self, *lines: str) -> None:
        """Adds lines at the present depth."""
        self.lines += ["    " * self._depth + line for line in lines]

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Adds ``head`` and what is written inside one level deeper."""
        self(head)
        self._depth += 1
        yield
        self._depth -= 1

    def kernel(
        self, name: str, tensors: Sequence[str], constants: Sequence[str], counts: Sequence[str] = ()
    ) -> AbstractContextManager[None]:
        """Opens a kernel's definition. One binary serves all ``counts``."""
        self("", f"@triton.jit(do_not_specialize={list(counts)})")
        arguments = [*tensors, *counts, *(f"{c}: tl.constexpr" for c in constants)]
        return self.block(f"def {name}({', '.join(arguments)}):")


def compile_source(subject: str, writer: Writer) -> dict[str, Any]:
    """The names that the written source defines. Triton reads it back line by line, hence the linecache."""
    source = "import triton\nimport triton.language as tl\n" + "\n".join(writer.lines) + "\n"
    name = f"<msmlff {subject} {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": name}
    exec(compile(source, name, "exec"), namespace)
    return namespace


def total(terms: Sequence[tuple[float, str]]) -> str:
    """Source of a sum of coefficients times names."""
    text = ""
    for coefficient, name in terms:
        sign = "-" if coefficient < 0 else "+"
        size = abs(coefficient)
        factor = name if abs(size - 1.0) < 1e-12 else f"{size!r} * {name}"
        text += f" {sign} {factor}" if text else (f"-{factor}" if sign == "-" else factor)
    return text


def launch(kernel: Any, grid: tuple[int, ...], arguments: Sequence[Any], warps: int) -> None:
    """Runs a kernel on the device of its first argument, a tensor, unless there is nothing to do."""
    if min(grid) == 0:
        return
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, num_warps=warps, num_stages=1, enable_fp_fusion=True)


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def power_of_two(size: int, least: int, most: int) -> int:
    """The smallest power of two that holds ``size``, between two others."""
    return min(most, max(least, 1 << max(0, size - 1).bit_length()))
