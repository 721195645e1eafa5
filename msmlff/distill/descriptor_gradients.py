"""Gradients of atomic energies with respect to the last weights of a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msmlff.data.store import FrameStore
from msmlff.distill.descriptors import TrainedModel
from msmlff.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from msmlff.data.batch import Batch
    from msmlff.models.base import ForceField


@dataclass(frozen=True)
class LastLayerGradients(TrainedModel):
    """For each atom the derivative of its energy with respect to the weights of the last layer of each
    readout of a trained model, in eV per unit of the weight. Summed over a frame's atoms (pooling "sum")
    they are the gradient of the frame's energy.

    The features of the last-layer kernel (Holzmüller et al., J. Mach. Learn. Res. 24, 164 (2023)). Our
    models add up a readout of every layer, and are linear in the last weights of each of them, not in those
    of the last readout alone: "all" is the gradient of the whole linear part. "last" keeps the readout of
    the last layer, whose hidden values carry most of the many-body energy.

    Attributes:
        path: a run folder (its model.safetensors is read), or a .safetensors file.
        readouts: "all" or "last".
    """

    readouts: str = "all"

    def __post_init__(self) -> None:
        if self.readouts not in ("all", "last"):
            raise InputError(f"descriptor.readouts={self.readouts} is unknown: write all or last")

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"readouts": self.readouts}

    def model(self, frames: FrameStore) -> ForceField:
        model = super().model(frames)
        if not getattr(model, "readouts", None):
            raise InputError(
                f"descriptor.path={self.path}: a {type(model).__name__} has no readouts, so no last layer: "
                "give a MACE or NequIP (or their multiscale forms), or write descriptor=model"
            )
        return model.requires_grad_(False)

    def rows(self, model: ForceField, batch: Batch) -> torch.Tensor:
        batch = batch.to(self._device())
        return last_layer_gradients(model, batch, last_only=self.readouts == "last")


def last_layer_gradients(model: ForceField, batch: Batch, last_only: bool = False) -> Tensor:
    """[atoms, W] eV: derivative of each atom's energy with respect to the last weights of the readouts.

    Read off the model while it computes energies: what goes into each readout, and how the energy of an atom
    grows with what comes out of it. So no formula of a model is repeated here.

    Args:
        model: its readouts, ``model.readouts``, map invariants [atoms, channels] to [atoms], each atom by
            itself; the last parameter of each is that of its last layer.
        batch: frames whose edges reach ``model.cutoff``, on the model's device.
        last_only: the last readout alone.
    """
    import torch

    chosen = list(model.readouts)[-1:] if last_only else list(model.readouts)  # type: ignore[arg-type]
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def note(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs.append(arguments[0].detach())
        outputs.append(output.detach().requires_grad_())
        return outputs[-1]

    hooks = [readout.register_forward_hook(note) for readout in chosen]
    try:
        with torch.enable_grad():
            energies = model.interaction_energies(model.edge_vectors(batch), batch)
            slopes = torch.autograd.grad(energies.sum(), outputs)
    finally:
        for hook in hooks:
            hook.remove()
    parts = [
        slope.unsqueeze(1) * _output_gradients(readout, x)
        for readout, x, slope in zip(chosen, inputs, slopes, strict=True)
    ]
    return torch.cat(parts, dim=1).detach()


def _output_gradients(readout: nn.Module, invariants: Tensor) -> Tensor:
    """[atoms, W] derivative of a readout's output for each atom with respect to its last parameter."""
    import torch
    from torch.func import functional_call, grad, vmap

    name, weight = list(readout.named_parameters())[-1]

    def output(values: Tensor, x: Tensor) -> Tensor:
        out: Tensor = functional_call(readout, {name: values}, (x.unsqueeze(0),))
        return out.squeeze(0)

    rows: Tensor = vmap(grad(output), in_dims=(None, 0))(weight.detach(), invariants)
    return torch.flatten(rows, start_dim=1)
