"""Which backend of the operations a model runs fastest on: a short measurement."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from msmlff.data.batch import Batch
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.nn.ops import available_backends, use_backend
from msmlff.nn.ops.twice import backward

#: A backend is measured so often, or until so many seconds have passed.
_REPEATS, _SECONDS = 3, 2.0
#: One that takes up to so many times the least time is as good: small differences are noise, and the same
#: choice in every run gives the same bits.
_AS_GOOD = 1.25


@dataclass(frozen=True)
class Choice:
    """A backend.

    Attributes:
        name: the fastest, or the first in the order of ``available_backends`` among those about as fast.
        milliseconds: least time of a call for each that was measured; empty where there was no choice.
        failed: what those said that could not compute this model.
    """

    name: str
    milliseconds: dict[str, float]
    failed: dict[str, str]


def choose_backend(model: ForceField, batch: Batch, training: bool) -> Choice:
    """Measure energies and forces, or the gradient of a training step, on each backend that can run there.

    The reference is left out. Weights and their gradients stay as they are.

    Args:
        model: on the device it will run on.
        batch: frames as it will see them, on the same device.
        training: whether it will be trained.

    Raises:
        InputError: no backend can compute this model.
    """
    names = [name for name in available_backends(batch.positions.device.type) if name != "reference"]
    if len(names) == 1:
        return Choice(names[0], {}, {})
    times: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            with use_backend(name):
                times[name] = _milliseconds(model, batch, training)
        except (RuntimeError, ValueError) as error:  # out of memory, or an l that kernels do not go up to
            failed[name] = str(error).splitlines()[0]
    if not times:
        raise InputError(f"no backend computes this model: {failed}")
    chosen = next(name for name, t in times.items() if t <= _AS_GOOD * min(times.values()))
    return Choice(chosen, {n: round(t, 2) for n, t in times.items()}, failed)


def _milliseconds(model: ForceField, batch: Batch, training: bool) -> float:
    parameters = [p for p in model.parameters() if p.requires_grad]
    kept = [p.grad for p in parameters]
    best, begin = float("inf"), time.perf_counter()
    try:
        for _ in range(1 + _REPEATS):  # the first is slower: caches, compilation
            start = time.perf_counter()
            prediction = model(batch, create_graph=training)
            if training:
                for p in parameters:
                    p.grad = None
                backward(prediction.energy.sum() + prediction.forces.square().sum(), parameters)
            if batch.positions.is_cuda:
                torch.cuda.synchronize()
            took = time.perf_counter() - start
            best = min(best, took)
            if time.perf_counter() - begin > _SECONDS + took:
                break
    finally:
        for p, grad in zip(parameters, kept, strict=True):
            p.grad = grad
    return 1e3 * best
