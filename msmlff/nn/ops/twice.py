"""Operations that bring their own first and second derivatives, as autograd takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Tensors = Sequence[Tensor]
Gradients = Sequence[Tensor | None]


class Operation(Protocol):
    """A function of tensors with hand-derived derivatives.

    Attributes:
        kinds: for each input "weight" (parameters alone), "geometry" (the frame alone) or "features" (both);
            the last stands for all further inputs, too.
    """

    kinds: tuple[str, ...]

    def value(self, inputs: Tensors) -> Tensors:
        """The outputs."""

    def gradient(self, inputs: Tensors, grads: Tensors, needed: Sequence[bool]) -> Gradients:
        """dE/dinputs from dE/doutputs; None where not needed."""

    def second(
        self, inputs: Tensors, grads: Tensors, v: Gradients, needed: Sequence[bool]
    ) -> tuple[Gradients, Tensors]:
        """Gradient of <v, gradient(inputs, grads)> by the inputs and by the grads.

        A ``v`` that is None is zero; ``needed`` speaks of the inputs.
        """


def apply(operation: Operation, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The operation's outputs, differentiable twice."""
    return _Value.apply(operation, *inputs)


# autograd does not tell a Function which of its gradients a pass asks for
_unwanted = ""


@contextmanager
def without_gradients(kind: str) -> Iterator[None]:
    """No gradients by inputs of this kind: "weight" for forces, "geometry" where weights learn.

    Autograd computes every gradient that could be asked for, wanted or not. What a pass of autograd inside
    asks for must not depend on these.
    """
    global _unwanted
    before, _unwanted = _unwanted, kind
    try:
        yield
    finally:
        _unwanted = before


def backward(loss: Tensor, parameters: Iterable[Tensor]) -> None:
    """Adds dloss/dparameter to each parameter's ``grad``; nothing flows back to positions."""
    with without_gradients("geometry"):
        loss.backward(inputs=[p for p in parameters if p.requires_grad])


def _wanted(operation: Operation, needs: Sequence[bool]) -> tuple[bool, ...]:
    kinds = operation.kinds + operation.kinds[-1:] * (len(needs) - len(operation.kinds))
    return tuple(need and kind != _unwanted for need, kind in zip(needs, kinds, strict=True))


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operation: Operation, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        ctx.operation = operation
        return tuple(operation.value(inputs))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needed = _wanted(ctx.operation, ctx.needs_input_grad[1:])
        return (None, *_Gradient.apply(ctx.operation, needed, *ctx.saved_tensors, *grads))


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, operation: Operation, needed: tuple[bool, ...], *tensors: Tensor
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.operation, ctx.count = operation, len(needed)
        return tuple(operation.gradient(tensors[: len(needed)], tensors[len(needed) :], needed))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *v: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors, count = ctx.saved_tensors, ctx.count
        if all(part is None for part in v):
            return (None,) * (2 + len(tensors))
        needed = _wanted(ctx.operation, ctx.needs_input_grad[2 : 2 + count])
        of_inputs, of_grads = ctx.operation.second(tensors[:count], tensors[count:], v, needed)
        return (None, None, *of_inputs, *of_grads)
