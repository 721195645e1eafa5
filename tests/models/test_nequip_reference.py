"""The nequip package is the oracle: with its weights, NequIP gives its energies, forces and stresses.

reference/nequip_*.npz are written by scripts/make_nequip_reference.py in an environment with nequip.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.data import atomic_numbers
from systems import make_batch
from torch import Tensor, nn

from msmlff.data.configuration import Configuration
from msmlff.data.statistics import Statistics
from msmlff.models import NequIP, NequIPArchitecture
from msmlff.nn.convolution import ScaleConvolution
from msmlff.nn.radial import SILU_SCALE

FILES = sorted((Path(__file__).parent / "reference").glob("nequip_*.npz"))


def make_model(settings: dict[str, Any]) -> NequIP:
    """The NequIP of nequip's settings, its weights not yet copied."""
    numbers = [atomic_numbers[name] for name in settings["type_names"]]
    architecture = NequIPArchitecture(
        cutoff=settings["r_max"],
        l_max=settings["l_max"],
        channels=settings["num_features"],
        layers=settings["num_layers"],
        num_bessel=settings.get("num_bessels", 8),
        cutoff_power=settings.get("polynomial_cutoff_p", 6),
        radial_mlp=(settings["radial_mlp_width"],) * settings.get("radial_mlp_depth", 1),
        readout_hidden=settings.get("readout_mlp_hidden_layers_width", 0),
        shift="none",
    )
    e0s = [settings["per_type_energy_shifts"][name] for name in settings["type_names"]]
    statistics = Statistics(
        (settings["avg_num_neighbors"],), (0.0,) * len(numbers), settings["per_type_energy_scales"]
    )
    return NequIP(numbers, e0s, architecture, statistics).double()


class Weights:
    """The weights of a file, by what follows `model.func.` in their names."""

    def __init__(self, file: dict[str, np.ndarray]) -> None:
        prefix = "weight:model.func."
        self.left = {
            k.removeprefix(prefix): torch.from_numpy(v) for k, v in file.items() if k.startswith("weight:")
        }

    def take(self, name: str) -> Tensor:
        return self.left.pop(name)

    def perceptron(self, name: str) -> list[Tensor]:
        """Matrices of a perceptron for activations that are normalised as ours are: nequip's gain is
        sqrt(2) behind each silu."""
        layers = sorted(k for k in self.left if k.startswith(f"{name}.mlp."))
        return [self.take(k) * (math.sqrt(2) / SILU_SCALE if i else 1.0) for i, k in enumerate(layers)]


def copy_views(parameters: Sequence[nn.Parameter], flat: Tensor) -> None:
    """Consecutive blocks of a flat array."""
    for parameter, values in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(values.view_as(parameter))


def copy_convolution(ours: ScaleConvolution, weights: Weights, name: str, cutoff: float) -> None:
    copy_views(ours.down.weights, weights.take(f"{name}.linear_1.weight"))
    copy_views(ours.up.weights, weights.take(f"{name}.linear_2.weight"))
    first, *others = weights.perceptron(f"{name}.edge_mlp")
    first = first * math.sqrt(2.0 / cutoff)  # nequip's Bessel functions are that much larger
    for parameter, values in zip([*ours.radial.weights], [first, *others[:-1]], strict=True):
        parameter.copy_(values)
    theirs = sorted(ours.paths, key=lambda p: (p.l1, p.l2, p.l3))
    blocks = dict(zip(theirs, others[-1].split(ours.radial_weight.shape[2], dim=1), strict=True))
    ours.radial_weight.copy_(torch.stack([blocks[path] for path in ours.paths]))


def copy_self_connection(ours: nn.Parameter, flat: Tensor, embedding: Tensor, l_max: int) -> None:
    """nequip's is bilinear in features and embedding: a linear map for each species."""
    species, rows, inputs, outputs = ours.shape
    gates = rows - l_max - 1
    features = embedding.shape[1]
    sizes = [inputs * features * outputs * n for n in [1 + gates] + [1] * l_max]
    blocks = []
    for part in flat.split(sizes):
        mixed = torch.einsum("zt,utw->zuw", embedding, part.view(inputs, features, -1))
        blocks += list(mixed.split(outputs, dim=2))
    ours.copy_(torch.stack(blocks, dim=1) * math.sqrt(species / features))


def convert(file: dict[str, np.ndarray]) -> NequIP:
    model, weights = make_model(json.loads(str(file["settings"]))), Weights(file)
    with torch.no_grad():
        model.embedding.copy_(weights.take("type_embed.embed_module.weight"))
        for i, layer in enumerate(model.layers):
            name = f"layer{i}_convnet.conv"
            copy_convolution(layer.scales[0], weights, name, model.cutoff)
            if i:
                copy_self_connection(
                    layer.skip.weight, weights.take(f"{name}.sc.weight"), model.embedding, layer.l_out
                )
        readout = weights.perceptron("per_atom_energy_readout.mlp_module")
        copy_views(list(model.readouts.parameters()), torch.cat([w.flatten() for w in readout]))
    assert not weights.left
    return model.eval()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_equals_nequip(path: Path) -> None:
    with np.load(path) as archive:
        file = dict(archive)
    count = sum(key.startswith("numbers_") for key in file)
    frames = [
        Configuration(*(file[f"{key}_{i}"] for key in ("numbers", "positions", "cell", "pbc")))
        for i in range(count)
    ]
    model = convert(file)
    ours = model(make_batch(model, *frames), stress=True)
    energies = np.array([file[f"energy_{i}"] for i in range(count)])
    np.testing.assert_allclose(ours.energy.numpy(), energies, rtol=1e-12)
    trivial = np.array([sum(model.e0s[model.atomic_numbers.index(z)] for z in f.numbers) for f in frames])
    interaction = energies - trivial
    assert np.abs(interaction).min() > 1e-3
    np.testing.assert_allclose(ours.energy.numpy() - trivial, interaction, rtol=1e-9)
    forces = np.concatenate([file[f"forces_{i}"] for i in range(count)])
    np.testing.assert_allclose(ours.forces.numpy(), forces, rtol=1e-9, atol=1e-9 * np.abs(forces).max())
    for i, frame in enumerate(frames):
        if frame.pbc.all():
            stress = file[f"stress_{i}"]
            np.testing.assert_allclose(
                ours.stress[i].numpy(), stress, rtol=1e-9, atol=1e-9 * np.abs(stress).max()
            )


def test_there_are_references() -> None:
    """One to three layers, l_max 0 to 2, one to three species, molecules and periodic cells."""
    assert len(FILES) >= 4
    assert sum(path.stat().st_size for path in FILES) < 200_000
