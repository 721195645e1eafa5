"""MS-MACE (Hu, Zhou, Jiang, arXiv 2312.09490): MACE whose A-basis sums messages of several ranges.

    A_s = Up_s( sum_j R_s(r_ij) Down_s(h_j) x Y(r_ij) ) / n_s      messages of scale s, edges below its cutoff
    A   = mean_s A_s   or   sum_s A_s
    h'  = Linear( SymmetricContraction(A) ) + Skip(h)
    E_i = E0 + scale * sum over layers of Readout(h')

The scales meet before the many-body product: there is no separate energy of long range. With one scale this
is MACE (Batatia et al., arXiv 2206.07697), number for number that of mace-torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from msmlff.data.batch import Batch
from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.nn.constant import Constant
from msmlff.nn.convolution import ScaleConvolution
from msmlff.nn.edges import RowBlocks, ScaleEdges
from msmlff.nn.linear import EquivariantLinear, split_l
from msmlff.nn.radial import PolynomialCutoff, RadialBasis
from msmlff.nn.readout import LinearReadout, NonlinearReadout
from msmlff.nn.segment import segment_sum
from msmlff.nn.species import SpeciesGroups, SpeciesLinear
from msmlff.nn.spherical import SphericalHarmonics
from msmlff.nn.symmetric_contraction import SymmetricContraction

MERGES = ("mean", "sum")
SHIFTS = ("environment", "constant", "none")


@dataclass(frozen=True)
class Scale:
    """One range of interaction.

    Attributes:
        cutoff: Å.
        channels: channels of the messages.
        l_max: highest degree of the spherical harmonics of the edges.
        radial_mlp: hidden layers of the radial network.
    """

    cutoff: float
    channels: int
    l_max: int
    radial_mlp: tuple[int, ...] = (64, 64, 64)

    def __post_init__(self) -> None:
        object.__setattr__(self, "radial_mlp", tuple(int(n) for n in self.radial_mlp))
        if self.cutoff <= 0 or self.channels < 1 or self.l_max < 0 or min(self.radial_mlp, default=0) < 1:
            raise InputError(
                f"{self}: cutoff must be positive, channels at least 1, l_max at least 0, radial_mlp a list "
                "of one or more positive layer sizes"
            )


class MSMACE(ForceField):
    """Multiscale MACE.

    Args:
        atomic_numbers: species, ascending.
        e0s: eV, energies of the isolated atoms: a mapping from atomic number or a sequence.
        scales: the ranges, any number and order; each a ``Scale`` or its fields as a mapping.
        channels: channels of the features of the atoms.
        hidden_l_max: highest l of the features between layers.
        correlation: highest degree of the many-body product (3: four-body messages).
        layers: number of message-passing layers.
        num_bessel: Bessel functions of the radial basis.
        cutoff_power: p of the polynomial cutoff.
        merge: "mean" or "sum" of the scales' A-bases.
        readout_hidden: hidden units of the last layer's readout.
        statistics: mean numbers of neighbours (one a scale), shifts (eV, one a species) and the scale of the
            energy; default: neighbours 1, shifts 0, scale 1.
        shift: what the statistics' shift multiplies. "environment": 1 - exp(-sum_j f(r_ij)), f the cutoff of
            the shortest scale: one inside matter, and zero for an isolated atom, whose energy then is exactly
            its E0. "constant": one, as in mace-torch; an isolated atom then has E0 + shift. "none": no shift.
        residual_first: give the first layer a skip connection from the embedding, too, as mace-torch does
            with a residual first interaction. An isolated atom's energy then is not its E0.

    Raises:
        InputError: values outside the ranges above; statistics that do not fit scales or species.
    """

    def __init__(  # noqa: PLR0913  (the keys of conf/model/*.yaml, flat)
        self,
        atomic_numbers: Sequence[int],
        e0s: Mapping[int, float] | Sequence[float],
        scales: Sequence[Scale | Mapping[str, Any]],
        channels: int = 32,
        hidden_l_max: int = 0,
        correlation: int = 3,
        layers: int = 2,
        num_bessel: int = 8,
        cutoff_power: int = 5,
        merge: str = "mean",
        readout_hidden: int = 16,
        statistics: Statistics | Mapping[str, Any] | None = None,
        shift: str = "environment",
        residual_first: bool = False,
    ) -> None:
        self_scales = tuple(_scale(s) for s in scales)
        super().__init__(atomic_numbers, e0s, [s.cutoff for s in self_scales])
        _check_choice("merge", merge, MERGES)
        _check_choice("shift", shift, SHIFTS)
        self.scales = self_scales
        self.channels, self.hidden_l_max, self.correlation = channels, hidden_l_max, correlation
        self.num_layers, self.num_bessel, self.cutoff_power = layers, num_bessel, cutoff_power
        self.merge, self.readout_hidden, self.shift = merge, readout_hidden, shift
        self.residual_first = residual_first
        self.statistics = _statistics(statistics, len(self.scales), len(self.atomic_numbers))
        self._check()

        species = len(self.atomic_numbers)
        self.l_max = max(s.l_max for s in self.scales)
        self.embedding = nn.Parameter(torch.randn(species, channels))
        self.harmonics = nn.ModuleList(SphericalHarmonics(s.l_max) for s in self.scales)
        self.radial_bases = nn.ModuleList(
            RadialBasis(s.cutoff, num_bessel, cutoff_power) for s in self.scales
        )
        self.envelope = PolynomialCutoff(min(self.scale_cutoffs), cutoff_power)
        self.layers = nn.ModuleList(_Layer(self, i) for i in range(layers))
        readouts: list[nn.Module] = [LinearReadout(channels) for _ in range(layers)]
        if layers > 1:
            readouts[-1] = NonlinearReadout(channels, readout_hidden)
        self.readouts = nn.ModuleList(readouts)
        self._shift = Constant(list(self.statistics.shift))

    def _check(self) -> None:
        bounds = {
            "channels": (self.channels, 1),
            "hidden_l_max": (self.hidden_l_max, 0),
            "correlation": (self.correlation, 1),
            "layers": (self.num_layers, 1),
            "num_bessel": (self.num_bessel, 1),
            "readout_hidden": (self.readout_hidden, 1),
        }
        for key, (value, least) in bounds.items():
            if value < least:
                raise InputError(f"model.{key} is {value}; it must be at least {least}")
        highest = max(s.l_max for s in self.scales)
        if self.hidden_l_max > highest:
            raise InputError(
                f"model.hidden_l_max is {self.hidden_l_max}, above the scales' highest l_max of {highest}: "
                "lower it or raise l_max of a scale"
            )

    def config(self) -> dict[str, Any]:
        return {
            "_target_": f"msmlff.models.{type(self).__name__}",
            "atomic_numbers": list(self.atomic_numbers),
            "e0s": list(self.e0s),
            "scales": [{**asdict(s), "radial_mlp": list(s.radial_mlp)} for s in self.scales],
            "channels": self.channels,
            "hidden_l_max": self.hidden_l_max,
            "correlation": self.correlation,
            "layers": self.num_layers,
            "num_bessel": self.num_bessel,
            "cutoff_power": self.cutoff_power,
            "merge": self.merge,
            "readout_hidden": self.readout_hidden,
            "statistics": {
                "neighbors": list(self.statistics.neighbors),
                "shift": list(self.statistics.shift),
                "scale": self.statistics.scale,
            },
            "shift": self.shift,
            "residual_first": self.residual_first,
        }

    def interaction_energies(self, vectors: Tensor, batch: Batch) -> Tensor:
        energy = vectors.new_zeros(batch.num_atoms)
        for readout, h in zip(self.readouts, self._hidden(vectors, batch), strict=True):
            energy = energy + readout(h[:, 0])
        energy = energy * self.statistics.scale
        if self.shift == "none":
            return energy
        shift = self._shift(energy)[batch.species]
        if self.shift == "environment":
            shift = shift * self._occupation(vectors, batch)
        return energy + shift

    def features(self, batch: Batch) -> Tensor:
        return torch.cat([h[:, 0] for h in self._hidden(self.edge_vectors(batch), batch)], dim=1)

    def _hidden(self, vectors: Tensor, batch: Batch) -> list[Tensor]:
        """Features [atoms, (l + 1)^2, channels] after each layer."""
        groups = SpeciesGroups.build(batch.species, len(self.atomic_numbers))
        edges = self._scale_edges(vectors, batch)
        table = self.embedding * (1.0 / math.sqrt(self.embedding.shape[0]))
        hidden: list[Tensor] = []
        for layer in self.layers:
            hidden.append(layer(hidden[-1] if hidden else None, table, batch.species, groups, edges))
        return hidden

    def _scale_edges(self, vectors: Tensor, batch: Batch) -> list[ScaleEdges]:
        """The edges below each scale's cutoff. The scale of longest range takes the short edges, too."""
        lengths = vectors.detach().square().sum(dim=1).sqrt()
        edges = []
        for scale, harmonics, basis in zip(self.scales, self.harmonics, self.radial_bases, strict=True):
            chosen = (lengths < scale.cutoff).nonzero().squeeze(1)
            blocks = RowBlocks.build(batch.receiver.index_select(0, chosen), batch.num_atoms)
            vector = blocks.pad(vectors.index_select(0, chosen))
            # An empty slot gets a vector beyond the cutoff, where the radial basis and all after it are zero.
            vector = vector + blocks.empty.to(vector.dtype).unsqueeze(1) * (2.0 * scale.cutoff)
            length = vector.square().sum(dim=1).sqrt()
            edges.append(
                ScaleEdges(
                    blocks=blocks,
                    sender=blocks.pad(batch.sender.index_select(0, chosen)),
                    radial=basis(length),
                    harmonics=harmonics(vector / length.unsqueeze(1)),
                )
            )
        return edges

    def _occupation(self, vectors: Tensor, batch: Batch) -> Tensor:
        """[atoms] 1 - exp(-sum_j f(r_ij)): 0 for an isolated atom, a half for one neighbour, 1 in matter."""
        weight = self.envelope(vectors.square().sum(dim=1).sqrt())
        return -torch.expm1(-segment_sum(weight, batch.row_ptr))


class _Layer(nn.Module):
    """One layer: messages of all scales, merged, multiplied, mixed; skip connection."""

    def __init__(self, model: MSMACE, index: int) -> None:
        super().__init__()
        channels, species = model.channels, len(model.atomic_numbers)
        last = index == model.num_layers - 1
        l_in = 0 if index == 0 else model.hidden_l_max
        l_out = 0 if last else model.hidden_l_max
        self.factor = 1.0 / len(model.scales) if model.merge == "mean" else 1.0
        self.scales = nn.ModuleList(
            ScaleConvolution(
                channels, l_in, s.channels, s.l_max, model.l_max, model.num_bessel, s.radial_mlp, neighbors
            )
            for s, neighbors in zip(model.scales, model.statistics.neighbors, strict=True)
        )
        self.l_max = model.l_max
        self.product = SymmetricContraction(species, model.l_max, l_out, channels, model.correlation)
        self.linear = EquivariantLinear([channels] * (l_out + 1), [channels] * (l_out + 1))
        # Without features to skip with, the first layer maps its messages by species instead, as MACE does.
        by_species = index == 0 and not model.residual_first
        self.message_by_species = (
            SpeciesLinear(species, model.l_max, channels, channels) if by_species else None
        )
        self.skip = None if by_species else SpeciesLinear(species, min(l_in, l_out), channels, channels)

    def forward(
        self,
        h: Tensor | None,
        table: Tensor,
        species: Tensor,
        groups: SpeciesGroups,
        edges: Sequence[ScaleEdges],
    ) -> Tensor:
        """Features of the atoms, from those of the layer before, or, None, from ``table[species]``."""
        a = self._messages(h, table, species, edges)
        if self.message_by_species is not None:
            a = self.message_by_species(a, groups)
        out = self.linear(split_l(self.product(a, groups)))
        if self.skip is None:
            return out
        skipped = self.skip(table[species].unsqueeze(1) if h is None else h, groups)
        return out + _pad_l(skipped, out.shape[1])

    def _messages(
        self, h: Tensor | None, table: Tensor, species: Tensor, edges: Sequence[ScaleEdges]
    ) -> Tensor:
        """The A-basis [atoms, (l_max + 1)^2, channels], all scales merged."""
        total: Tensor | None = None
        for convolution, scale_edges in zip(self.scales, edges, strict=True):
            a = convolution(table, scale_edges, species) if h is None else convolution(h, scale_edges)
            a = _pad_l(a, (self.l_max + 1) ** 2)
            total = a if total is None else total + a
        assert total is not None
        return total if self.factor == 1.0 else total * self.factor


def _pad_l(features: Tensor, size: int) -> Tensor:
    """[atoms, lm, channels] with zeros for the higher l, up to ``size`` = (l_max + 1)^2."""
    missing = size - features.shape[1]
    return functional.pad(features, (0, 0, 0, missing)) if missing else features


def _scale(given: Scale | Mapping[str, Any]) -> Scale:
    if isinstance(given, Scale):
        return given
    try:
        return Scale(**given)
    except TypeError as error:
        known = ", ".join(f.name for f in fields(Scale))
        raise InputError(f"model.scales has {dict(given)}; a scale's keys are {known}") from error


def _statistics(given: Any, num_scales: int, num_species: int) -> Statistics:
    if given is None:
        return Statistics((1.0,) * num_scales, (0.0,) * num_species, 1.0)
    statistics = Statistics.from_dict(given) if isinstance(given, Mapping) else given
    if len(statistics.neighbors) != num_scales or len(statistics.shift) != num_species:
        raise InputError(
            f"statistics has {len(statistics.neighbors)} neighbours and {len(statistics.shift)} shifts; the "
            f"model has {num_scales} scales and {num_species} species: compute it for these"
        )
    # A scale without neighbours in the data sends no messages; dividing by one keeps it finite.
    neighbors = tuple(n if n > 0 else 1.0 for n in statistics.neighbors)
    return Statistics(neighbors, tuple(statistics.shift), float(statistics.scale))


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"model.{key} is {value!r}; choose one of {', '.join(choices)}")
