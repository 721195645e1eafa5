"""ANI (Smith, Isayev, Roitberg, Chem. Sci. 8, 3192 (2017)): a network for each element on symmetry functions.

    E_i = E0 + shift + scale * ( N_z(G_i) - N_z(0) )

G_i: ``SymmetryFunctions``; N_z: the network of the atom's element. A network gives some energy even for an
atom without neighbours, whose G is zero; subtracting that leaves an isolated atom its E0. Inside matter it
is a constant, like the bias of the last layer, which therefore is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from msmlff.data.batch import Batch
from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models.architecture import Architecture, check_choice, check_whole
from msmlff.models.pair_terms import is_number
from msmlff.models.scaled import ScaledForceField
from msmlff.nn.radial import PolynomialCutoff
from msmlff.nn.species import SpeciesGroups
from msmlff.nn.symmetry_functions import CosineCutoff, Grid, SymmetryFunctions

CUTOFF_FUNCTIONS = ("polynomial", "cosine")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "celu": lambda x: functional.celu(x, alpha=0.1),
}


@dataclass(frozen=True, kw_only=True)
class ANIArchitecture(Architecture):
    """Keys of conf/model/ani.yaml; the defaults of the functions are those of ANI-2x.

    Attributes:
        cutoff: Å, of the radial functions.
        angular_cutoff: Å, of the angular functions; not above ``cutoff``.
        start: Å, the first shift of both; the others follow evenly up to the cutoff, which has none.
        radial_shifts: how many.
        radial_eta: 1/Å^2, of the radial Gaussians.
        angular_shifts: how many.
        angular_eta: 1/Å^2.
        angles: how many, at (k + 1/2) pi / angles.
        zeta: exponent of the angular functions.
        hidden: hidden layers of each element's network.
        activation: "gelu", or "celu" (alpha 0.1), ANI's own.
        cutoff_power: p of the polynomial cutoff.
        shift: as in every architecture; the range of "environment" is ``cutoff``.
        cutoff_function: "polynomial", or "cosine", ANI's own, with which forces have a kink at the cutoffs.

    Raises:
        InputError: a value out of its range, with its key.
    """

    cutoff: float
    angular_cutoff: float
    start: float = 0.8
    radial_shifts: int = 16
    radial_eta: float = 19.7
    angular_shifts: int = 8
    angular_eta: float = 12.5
    angles: int = 4
    zeta: float = 14.1
    hidden: tuple[int, ...] = (256, 192, 160)
    activation: str = "gelu"
    cutoff_function: str = "polynomial"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("cutoff", "angular_cutoff", "start", "radial_eta", "angular_eta"):
            value, unit = getattr(self, key), "1/Å²" if key.endswith("eta") else "Å"
            if not is_number(value) or not value > 0:
                raise InputError(f"model.{key} is {value!r}; it must be a positive number of {unit}")
        if self.angular_cutoff > self.cutoff:
            raise InputError(
                f"model.angular_cutoff is {self.angular_cutoff}, above model.cutoff of {self.cutoff}: "
                "lower it or raise the other"
            )
        if self.start >= self.angular_cutoff:
            raise InputError(
                f"model.start is {self.start}, not below model.angular_cutoff of {self.angular_cutoff}: "
                "lower it"
            )
        if not is_number(self.zeta) or not self.zeta >= 1:
            raise InputError(f"model.zeta is {self.zeta!r}; it must be a number of at least 1")
        for key in ("radial_shifts", "angular_shifts", "angles"):
            check_whole(f"model.{key}", getattr(self, key), 1)
        if isinstance(self.hidden, str) or not isinstance(self.hidden, Sequence) or not self.hidden:
            raise InputError(f"model.hidden is {self.hidden!r}; it must be a list of one or more layer sizes")
        for size in self.hidden:
            check_whole("model.hidden", size, 1)
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_choice("model.activation", self.activation, tuple(ACTIVATIONS))
        check_choice("model.cutoff_function", self.cutoff_function, CUTOFF_FUNCTIONS)

    @property
    def cutoffs(self) -> tuple[float, ...]:
        return (float(self.angular_cutoff), float(self.cutoff))

    @property
    def scale_facts(self) -> list[dict[str, Any]]:
        angular = self.angular_shifts * self.angles
        return [
            {"cutoff": self.cutoffs[0], "functions": f"{angular} functions for each pair of species"},
            {"cutoff": self.cutoffs[1], "functions": f"{self.radial_shifts} functions for each species"},
        ]

    @property
    def grid(self) -> Grid:
        """Widths and centres of the symmetry functions."""
        return Grid(
            radial_eta=self.radial_eta,
            radial_shifts=_shifts(self.start, self.cutoff, self.radial_shifts),
            angular_eta=self.angular_eta,
            angular_shifts=_shifts(self.start, self.angular_cutoff, self.angular_shifts),
            zeta=self.zeta,
            angles=tuple((k + 0.5) * math.pi / self.angles for k in range(self.angles)),
        )

    def cutoff_module(self, cutoff: float) -> CosineCutoff | PolynomialCutoff:
        """f(r) of the symmetry functions."""
        if self.cutoff_function == "cosine":
            return CosineCutoff(cutoff)
        return PolynomialCutoff(cutoff, self.cutoff_power)


class ANI(ScaledForceField):
    """ANI; arguments and errors are those of ``ScaledForceField``. Cutoffs: the angular, the radial one."""

    architecture: ANIArchitecture
    hops = 1

    def __init__(
        self,
        atomic_numbers: Sequence[int],
        e0s: Mapping[int, float] | Sequence[float],
        architecture: ANIArchitecture,
        statistics: Statistics | None = None,
    ) -> None:
        super().__init__(atomic_numbers, e0s, architecture, statistics)
        # Of the shift: the angular cutoff may lie just behind a metal's first shell, where it is no constant.
        self.envelope = PolynomialCutoff(architecture.cutoff, architecture.cutoff_power)
        self.functions = SymmetryFunctions(
            len(self.atomic_numbers),
            architecture.grid,
            architecture.cutoff_module(architecture.cutoff),
            architecture.cutoff_module(architecture.angular_cutoff),
        )
        self.networks = nn.ModuleList(
            ElementNetwork(self.functions.size, architecture.hidden, architecture.activation)
            for _ in self.atomic_numbers
        )

    def environments(self, vectors: Tensor, batch: Batch) -> Tensor:
        """[atoms, functions] symmetry functions of each atom (the AEV), from edge vectors [edges, 3] in Å."""
        species = batch.species.index_select(0, batch.sender)
        return self.functions(vectors, species, batch.receiver, batch.num_atoms)

    def network(self, vectors: Tensor, batch: Batch) -> Tensor:
        inputs = self.environments(vectors, batch)
        groups = SpeciesGroups.build(batch.species, len(self.atomic_numbers))
        zero = inputs.new_zeros(1, inputs.shape[1])
        parts = zip(self.networks, groups.split(inputs), strict=True)
        energy = groups.join([network(part) - network(zero) for network, part in parts])
        # Both are the same for an atom without neighbours but for rounding, which must not stay either.
        return energy.masked_fill(inputs.detach().eq(0).all(dim=1), 0.0)

    def features(self, batch: Batch) -> Tensor:
        inputs = self.environments(self.edge_vectors(batch), batch)
        groups = SpeciesGroups.build(batch.species, len(self.atomic_numbers))
        networks: Any = self.networks
        parts = zip(networks, groups.split(inputs), strict=True)
        return groups.join([torch.cat(network.hidden(part), dim=1) for network, part in parts])


class ElementNetwork(nn.Module):
    """The network of one element; its last layer has no bias, see the module's docstring."""

    def __init__(self, inputs: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        self._activation = ACTIVATIONS[activation]
        layers = [nn.Linear(a, b) for a, b in pairwise([inputs, *hidden])]
        self.readout = nn.Linear(hidden[-1], 1, bias=False)
        for layer in layers:  # PyTorch's own start lets values fade from layer to layer
            nn.init.normal_(layer.weight, std=math.sqrt(2.0 / layer.in_features))
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.readout.weight, std=1.0 / math.sqrt(hidden[-1]))
        self.layers = nn.ModuleList(layers)

    def hidden(self, x: Tensor) -> list[Tensor]:
        """[atoms, inputs] -> the values of each hidden layer."""
        values: list[Tensor] = []
        for layer in self.layers:
            values.append(self._activation(layer(values[-1] if values else x)))
        return values

    def forward(self, x: Tensor) -> Tensor:
        """[atoms, inputs] -> [atoms]."""
        return self.readout(self.hidden(x)[-1])[:, 0]


def _shifts(start: float, cutoff: float, count: int) -> tuple[float, ...]:
    return tuple(start + k * (cutoff - start) / count for k in range(count))
