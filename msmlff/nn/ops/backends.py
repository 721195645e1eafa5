"""The backends of the operations: which there are, which can run here, which is in use.

    reference       plain PyTorch, differentiated by autograd to any order: what the others must equal
    torch           PyTorch on padded blocks, derivatives by hand; any device
    cpu             compiled C++ with OpenMP
    triton          kernels for CUDA GPUs
    cuequivariance  NVIDIA's kernels for CUDA GPUs, an optional package; slow elsewhere

Numbers and state of a model do not depend on the backend, to rounding. Unless one is set, the first that can
run on a tensor's device is taken, in the order cpu, triton, cuequivariance (on CUDA alone), torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from msmlff.errors import InputError


@dataclass(frozen=True)
class Kernels:
    """The operations of one backend; ``reference`` says what each takes and returns."""

    convolution: Callable[..., Any]
    species_convolution: Callable[..., Any]
    radial_network: Callable[..., Any]
    symmetric_contraction: Callable[..., Any]
    linear_maps: Callable[..., Any]
    gate: Callable[..., Any]


@dataclass(frozen=True)
class Backend:
    """A backend that may or may not be able to run here.

    Attributes:
        name: as in the configuration.
        missing: why it cannot run for tensors on a type of device ("cpu", "cuda"), and what to do; None where
            it can.
        load: imports its operations.
        padded: whether it reads edges in padded blocks (``RowBlocks``), else in ``Rows``.
        device: the type of device it is made for; None: any.
        pairs: finds the pairs among edges in ``Rows`` with their vectors [edges, 3], for a backend that works
            on pairs where it can; None: it takes every edge for itself.
    """

    name: str
    missing: Callable[[str], str | None]
    load: Callable[[], Kernels]
    padded: bool = False
    device: str | None = None
    pairs: Callable[[Any, torch.Tensor], Any] | None = None


def _no_reason(device: str) -> str | None:
    return None


def _load_reference() -> Kernels:
    from msmlff.nn.ops import reference as r
    from msmlff.nn.ops.maps import linear_maps

    return Kernels(
        r.convolution, r.species_convolution, r.radial_network, r.symmetric_contraction, linear_maps, r.gate
    )


def _load_torch() -> Kernels:
    from msmlff.nn.ops.contraction import symmetric_contraction
    from msmlff.nn.ops.neighbor_sum import convolution
    from msmlff.nn.ops.perceptron import radial_network
    from msmlff.nn.ops.species_sum import species_convolution

    return replace(
        _load_reference(),
        convolution=convolution,
        species_convolution=species_convolution,
        radial_network=radial_network,
        symmetric_contraction=symmetric_contraction,
    )


def _cpu_missing(device: str) -> str | None:
    from msmlff.nn.ops.native_library import missing

    return missing() if device == "cpu" else f"it runs on the CPU, not on {device}"


def _load_cpu() -> Kernels:
    from msmlff.nn.ops.cpu_contraction import symmetric_contraction
    from msmlff.nn.ops.cpu_gate import gate
    from msmlff.nn.ops.cpu_linear_maps import linear_maps
    from msmlff.nn.ops.cpu_pairs import convolution, species_convolution
    from msmlff.nn.ops.cpu_perceptron import radial_network

    return Kernels(convolution, species_convolution, radial_network, symmetric_contraction, linear_maps, gate)


def _cpu_pairs(rows: Any, vectors: torch.Tensor) -> Any:
    from msmlff.nn.ops.cpu_pairs import find_pairs

    return find_pairs(rows, vectors)


def _triton_missing(device: str) -> str | None:
    from msmlff.nn.ops.triton_common import missing

    return missing(device)


def _load_triton() -> Kernels:
    from msmlff.nn.ops.perceptron import radial_network
    from msmlff.nn.ops.triton_contraction import symmetric_contraction
    from msmlff.nn.ops.triton_convolution import convolution
    from msmlff.nn.ops.triton_species import species_convolution

    return replace(
        _load_reference(),
        convolution=convolution,
        species_convolution=species_convolution,
        radial_network=radial_network,
        symmetric_contraction=symmetric_contraction,
    )


def _cuequivariance_missing(device: str) -> str | None:
    from msmlff.nn.ops.cuequivariance import missing

    return missing(device)


def _load_cuequivariance() -> Kernels:
    from msmlff.nn.ops.cuequivariance import convolution, species_convolution, symmetric_contraction
    from msmlff.nn.ops.perceptron import radial_network

    return replace(
        _load_reference(),
        convolution=convolution,
        species_convolution=species_convolution,
        radial_network=radial_network,
        symmetric_contraction=symmetric_contraction,
    )


BACKENDS = {
    b.name: b
    for b in (
        Backend("reference", _no_reason, _load_reference),
        Backend("torch", _no_reason, _load_torch, padded=True),
        Backend("cpu", _cpu_missing, _load_cpu, device="cpu", pairs=_cpu_pairs),
        Backend("triton", _triton_missing, _load_triton, device="cuda"),
        Backend("cuequivariance", _cuequivariance_missing, _load_cuequivariance),
    )
}
#: Those to choose from, best first; the others are taken when they are asked for.
_PREFERRED = {"cuda": ("triton", "cuequivariance", "torch")}
_PREFERRED_ELSEWHERE = ("cpu", "triton", "torch")
_chosen: str | None = None


@cache
def kernels(name: str) -> Kernels:
    """The operations of a backend."""
    return BACKENDS[name].load()


def available_backends(device: str = "cpu") -> list[str]:
    """Names of the backends to choose from on "cpu" or "cuda", best first, the reference last."""
    names = _PREFERRED.get(device, _PREFERRED_ELSEWHERE)
    return [name for name in (*names, "reference") if BACKENDS[name].missing(device) is None]


def check_backend(name: str, device: str = "cpu") -> None:
    """Whether a backend of that name can run on the device.

    Raises:
        InputError: it cannot; the message says why and which can.
    """
    there = ", ".join(available_backends(device))
    if name not in BACKENDS:
        raise InputError(f"ops.backend={name!r}: there is none of that name; on {device}: auto, {there}")
    reason = BACKENDS[name].missing(device)
    if reason is not None:
        raise InputError(f"ops.backend={name}: {reason}. On {device}: auto, {there}")


def set_backend(name: str | None) -> None:
    """The backend of all operations from now on, where it is made for the device; None: the best for each.

    Raises:
        InputError: an unknown name; that it cannot run on its device is said where it meets a tensor there.
    """
    global _chosen
    if name is not None and name not in BACKENDS:
        check_backend(name)
    _chosen = name


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """``set_backend`` for the time of a with statement."""
    before = _chosen
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def backend_for(device: torch.device) -> Backend:
    """The backend in use for tensors on ``device``.

    Raises:
        InputError: the one that was set is made for this device and cannot run there.
    """
    return BACKENDS[_resolve(_chosen, device.type)]


@cache
def _resolve(name: str | None, device: str) -> str:
    if name is not None:
        backend = BACKENDS[name]
        if backend.device in (None, device):
            check_backend(name, device)
        if backend.missing(device) is None:
            return name
    reason = BACKENDS["cpu"].missing("cpu")
    if device == "cpu" and reason is not None:
        warnings.warn(f"PyTorch's operations are used, which are slower: {reason}", stacklevel=2)
    return available_backends(device)[0]
