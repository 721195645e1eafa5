"""The models' compiled kernels: whether they can run here, and how tensors are handed to them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from msmlff import native

_SUFFIX = {torch.float32: "float32", torch.float64: "float64"}


def missing() -> str | None:
    """Why the kernels cannot run on this machine and how to get them; None where they can."""
    return native.missing("operations", _library)


@cache
def _library() -> ctypes.CDLL:
    _share_openmp()
    return ctypes.CDLL(str(native.LIBRARIES["operations"]))


def _share_openmp() -> None:
    """Makes torch's OpenMP runtime visible: two runtimes would have two sets of threads on the same cores."""
    maps = Path("/proc/self/maps")
    loaded = set(re.findall(r"\S*/lib[gi]?omp[^/\s]*\.so\S*", maps.read_text())) if maps.is_file() else set()
    for name in [*sorted(loaded, key=lambda path: "torch" not in path), "libgomp.so.1"]:
        try:
            runtime = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        if hasattr(runtime, "GOMP_parallel"):
            return


@cache
def lanes(dtype: torch.dtype) -> int:
    """Numbers in a vector: channels and radial functions are padded to whole vectors."""
    return int(_library().vector_bytes()) // dtype.itemsize


def call(name: str, dtype: torch.dtype, *arguments: object) -> None:
    """Calls ``name`` for ``dtype`` with pointers made by the functions below; other threads of Python run."""
    getattr(_library(), f"{name}_{_SUFFIX[dtype]}")(*arguments)


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of a contiguous tensor's numbers; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """An array of addresses, null for None."""
    return (ctypes.c_void_p * max(1, len(tensors)))(*(pointer(t) for t in tensors))


class Numbers:
    """A C struct of 64-bit integers, then pointers; it keeps what it points to as long as it is kept."""

    def __init__(self, integers: Sequence[int], tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        words = [*integers, *(t.data_ptr() for t in tensors)]
        self.words = (ctypes.c_int64 * len(words))(*words)

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        """The struct's address, which ctypes asks for."""
        return ctypes.c_void_p(ctypes.addressof(self.words))


def pad_last(tensor: Tensor, multiple: int) -> Tensor:
    """Contiguous, zeros at the end of the last dimension up to a multiple."""
    rest = -tensor.shape[-1] % multiple
    return torch.nn.functional.pad(tensor, (0, rest)) if rest else tensor.contiguous()


def cut_last(tensor: Tensor | None, size: int) -> Tensor | None:
    """The inverse of ``pad_last``."""
    return tensor if tensor is None or tensor.shape[-1] == size else tensor[..., :size].contiguous()
