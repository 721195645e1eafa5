"""Training steps and evaluations captured once for each size of batch, then replayed.

Steps of small systems take as long as their kernels' launches and Python's work around them. A replay has
neither. It needs batches of few sizes whose layout is prepared (``data.padding``, ``nn.layout``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from msmlff.data.batch import Batch, map_tensors
from msmlff.data.padding import unpadded
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.models.message_passing import MessagePassingModel
from msmlff.nn.ops.backends import backend_for

Tensors = Sequence[Tensor]
Function = Callable[[Batch], Tensors]

#: How far a replay may be from the computation it was captured from, relative to the norm of each result.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}
#: Of results' entries, below which differences are no longer relative to them. Of a prediction: eV, eV of an
#: atom, eV/Å (in float32 forces may then differ by 1e-4), eV/Å³; of a step: of the losses, of the gradient.
PREDICTION, STEP = (0.1, 0.1, 0.1, 0.01), (1e-3, 1e-3)
#: Replays of a size that are compared. The second shows what the first cannot: values of the batch that was
#: captured, kept as constants.
_COMPARED = 2
#: Sizes that are captured, at most; each keeps its results in memory.
_SIZES = 32
_WARM_UP = 3


class CudaGraph:
    """The kernels a function of a batch launches, as one CUDA graph.

    Args:
        function: reads nothing but the batch and tensors that keep their place in memory; waits for nothing.
        batch: the first one, with its layout, on the GPU.
        pool: of memory, shared with other graphs, which never run at the same time.
    """

    def __init__(self, function: Function, batch: Batch, pool: Any) -> None:
        self._batch: Batch = map_tensors(batch, Tensor.clone)
        self._inputs = tensors_of(self._batch)
        self._graph = torch.cuda.CUDAGraph()
        current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):  # whatever happens in it, the current stream is put back
            for _ in range(_WARM_UP):  # compiles kernels, makes the constants of the model
                function(self._fresh())
            # Only what this thread does is checked: another one pins the memory of the batches to come.
            with torch.cuda.graph(self._graph, pool, stream, capture_error_mode="thread_local"):
                self._outputs = function(self._fresh())
        current.wait_stream(stream)

    def __call__(self, batch: Batch) -> Tensors:
        """The function's results for a batch of the same size, valid until another graph of the pool runs."""
        torch._foreach_copy_(self._inputs, tensors_of(batch), non_blocking=True)
        self._graph.replay()
        return self._outputs

    def _fresh(self) -> Batch:
        """The same tensors in new objects: none keeps what was computed from the tensors before."""
        batch: Batch = map_tensors(self._batch, lambda t: t)
        return batch


def tensors_of(batch: Batch) -> list[Tensor]:
    """All tensors of a batch and its layout, always in the same order."""
    found: list[Tensor] = []

    def take(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(batch, take)
    return found


Capture = Callable[[Function, Batch], Function]


class Captured:
    """Calls functions of batches, captured once for each size of batch and replayed after.

    The first replays of each size are compared with the computation itself, without padding. Where a capture
    fails or does not agree, that is said in a warning, and from then on functions are called as they are. So
    they are for batches without a layout, and for further sizes beyond 32.

    Args:
        capture: makes the replay of a function on batches of a size.
        dtype: of the network; decides how far results may differ.
    """

    def __init__(self, capture: Capture, dtype: torch.dtype) -> None:
        self.capture, self.tolerance = capture, TOLERANCE[dtype]
        self.failed: str | None = None
        self._replays: dict[Hashable, Function] = {}
        self._compared: dict[Hashable, int] = {}

    def __call__(
        self, function: Function, batch: Batch, key: Hashable = (), magnitudes: Sequence[float] = ()
    ) -> Tensors:
        """The tensors ``function(batch)`` returns; they may change with the next call.

        Args:
            function: gives a list of tensors whose first dimension, if any, may be that of frames or atoms.
            batch: with a layout.
            key: what the function depends on besides the batch and weights: another is another function.
            magnitudes: of a typical entry of each result, in its unit. Differences are relative to it where
                what is expected is smaller: forces that are zero by symmetry are rounding alone.
        """
        if self.failed is not None or batch.layout is None:
            return function(batch)
        size = (key, *(t.shape for t in tensors_of(batch)), batch.layout.groups.sizes)
        if size not in self._replays and len(self._replays) >= _SIZES:
            return function(batch)
        worst = 0.0
        try:
            if size not in self._replays:
                self._replays[size] = self.capture(function, batch)
            found = self._replays[size](batch)
            if self._compared.get(size, 0) < _COMPARED:
                self._compared[size] = self._compared.get(size, 0) + 1
                worst = _difference(found, function(unpadded(batch)), magnitudes)
        except Exception as error:
            first_line = f"{type(error).__name__}: {error}".splitlines()[0]
            return self._give_up(first_line, function, batch)
        if not worst <= self.tolerance:
            reason = f"results differ by {worst:.1e}, more than {self.tolerance:.0e}"
            return self._give_up(reason, function, batch)
        return found

    def _give_up(self, reason: str, function: Function, batch: Batch) -> Tensors:
        self.failed = reason
        self._replays.clear()
        warnings.warn(
            f"training.compile: a captured computation is not used ({reason}); the run goes on without, "
            "training.compile=none does so from the start",
            stacklevel=3,
        )
        return function(batch)


@torch.no_grad()
def _difference(found: Tensors, expected: Tensors, magnitudes: Sequence[float] = ()) -> float:
    """Largest norm of a difference, relative to that of what is expected, or to that of entries as large as
    ``magnitudes``, where that is larger; rows of padding are left out.
    """
    worst = 0.0
    for ours, theirs, least in zip(found, expected, magnitudes or [0.0] * len(found), strict=True):
        given = ours[: len(theirs)] if theirs.ndim else ours
        if not torch.equal(torch.isfinite(given), torch.isfinite(theirs)):
            return float("inf")
        difference = (given - theirs).nan_to_num(0.0, 0.0, 0.0).double().norm()
        norm = theirs.nan_to_num(0.0, 0.0, 0.0).double().norm().clamp(min=least * theirs.numel() ** 0.5)
        worst = max(worst, float(difference / norm) if difference > 0 else 0.0)
    return worst


def captured_calls(choice: str, device: str, model: ForceField) -> Captured | None:
    """What ``training.compile`` asks for; None: nothing is captured.

    Args:
        choice: "auto", "none" or "graph"; "auto" captures on a GPU what can be captured.
        device: "cpu" or "cuda".
        model: which is trained.

    Raises:
        InputError: "graph" where nothing can be captured.
    """
    if choice == "none":
        return None
    reason = None
    if device != "cuda":
        reason = "it captures CUDA graphs, and the run is on the CPU"
    elif not isinstance(model, MessagePassingModel):
        reason = f"the sizes in {type(model).__name__} depend on the frames' geometry"
    elif backend_for(torch.device("cuda")).padded:
        reason = "the sizes in ops.backend=torch depend on the frames' geometry"
    if reason is None:
        return Captured(partial(CudaGraph, pool=torch.cuda.graph_pool_handle()), model.dtype)
    if choice == "graph":
        raise InputError(f"training.compile=graph: {reason}; write auto or none")
    return None
