"""CUDA graphs on the CPU: what is captured are calls of PyTorch's operators, run again on the same memory.

As in a CUDA graph, whatever Python computes while capturing, a number read from a tensor above all, stays as
it was; so does what no operator of PyTorch computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from msmlff.nn import segment


class FakeGraph:
    """Stands for ``torch.cuda.CUDAGraph``.

    Attributes:
        made: all of them.
        replays: how often this one ran.
    """

    made: list[FakeGraph] = []

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []
        self.replays = 0
        FakeGraph.made.append(self)

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for func, args, kwargs, results in self.calls:
                again = tree_leaves(func(*args, **kwargs))
                for i, result in results:
                    result.copy_(again[i])


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: FakeGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        places = {
            t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        }
        # views of what came in, and what was changed in place, have their memory already
        new = [
            (i, t.detach())
            for i, t in enumerate(tree_leaves(out))
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in places
        ]
        if new or func._schema.is_mutable:
            kept = [a.detach() if isinstance(a, Tensor) else a for a in args]
            self.graph.calls.append((func, kept, kwargs, new))
        return out


@contextmanager
def _capture(graph: FakeGraph, *_: Any, **__: Any) -> Iterator[None]:
    with _Recorder(graph):
        yield


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts them in the place of CUDA's, and of torch-scatter the operators that are used on a GPU."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(FakeGraph, "made", [])
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", _capture)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda other: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(segment, "on_gpu", lambda values: True)
