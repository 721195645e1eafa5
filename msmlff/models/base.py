"""What every model is: energies of atoms as a function of edge vectors, and all that follows from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from msmlff.data.batch import Batch
from msmlff.errors import InputError
from msmlff.nn.constant import Constant
from msmlff.nn.dispersion import D3
from msmlff.nn.ops.twice import without_gradients
from msmlff.nn.segment import segment_sum
from msmlff.nn.zbl import ZBL


@dataclass
class Prediction:
    """What a model says of a batch, in float64 whatever the type of its weights.

    Attributes:
        energy: [frames] eV.
        atomic_energies: [atoms] eV, E0 included.
        forces: [atoms, 3] eV/Å, or None.
        stress: [frames, 3, 3] eV/Å³, (1/V) dE/dstrain; NaN for frames without a volume; or None.
    """

    energy: Tensor
    atomic_energies: Tensor
    forces: Tensor | None = None
    stress: Tensor | None = None


class ForceField(nn.Module, ABC):
    """Base of all models. A model defines the interaction energy of each atom; the rest is here, once.

    Attributes:
        cutoff: Å, up to which neighbours are needed: the longest of the scales and the pair terms.
        hops: messages from atom to atom, each up to the longest scale's cutoff, by which others have an
            influence on an atom's interaction energy; 1: that of its neighbours alone. Set by the subclass.

    Args:
        atomic_numbers: species the model knows, ascending.
        e0s: eV, energy of the isolated atom for each of them: a mapping from atomic number, or a sequence.
        scale_cutoffs: Å, one a scale.
        pair_terms: energies of pairs that are added (``msmlff.models.pair_terms``).

    Raises:
        InputError: species repeated or without an E0, a cutoff that is not positive.
    """

    hops: int

    def __init__(
        self,
        atomic_numbers: Sequence[int],
        e0s: Mapping[int, float] | Sequence[float],
        scale_cutoffs: Sequence[float],
        pair_terms: Sequence[ZBL | D3] = (),
    ) -> None:
        super().__init__()
        numbers = tuple(int(z) for z in atomic_numbers)
        if not numbers or list(numbers) != sorted(set(numbers)):
            raise InputError(f"atomic_numbers is {list(numbers)}; give each species once, ascending")
        if not scale_cutoffs or min(scale_cutoffs) <= 0:
            raise InputError(f"cutoffs are {list(scale_cutoffs)}; each must be a positive number of Å")
        self.atomic_numbers = numbers
        self.e0s = _e0_tuple(numbers, e0s)
        self.scale_cutoffs = tuple(float(c) for c in scale_cutoffs)
        self.pair_terms = nn.ModuleList(pair_terms)
        self.cutoff = max([*self.scale_cutoffs, *(term.cutoff for term in pair_terms)])
        self._e0 = Constant(list(self.e0s))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the network's weights."""
        return next(self.parameters()).dtype

    @property
    def reaches(self) -> list[tuple[int, float]]:
        """(messages, cutoff of each in Å) of the network and of each pair term."""
        terms: Any = self.pair_terms
        return [(self.hops, max(self.scale_cutoffs)), *((term.hops, term.cutoff) for term in terms)]

    @property
    def receptive_field(self) -> float:
        """Å: an atom's energy depends on no atom farther away, its forces on none at twice that distance."""
        return max(hops * cutoff for hops, cutoff in self.reaches)

    @abstractmethod
    def interaction_energies(self, vectors: Tensor, batch: Batch) -> Tensor:
        """[atoms] eV, model dtype: energies without E0 and pair terms, from edge vectors [edges, 3] in Å.

        It must depend on the positions through ``vectors`` alone, and on none beyond ``scale_cutoffs``.
        """

    @abstractmethod
    def features(self, batch: Batch) -> Tensor:
        """[atoms, F] invariant features of all layers, concatenated; differentiable in the positions."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """All that ``model_from_config`` needs, as JSON takes it: architecture, species, E0s, statistics."""

    def forward(
        self, batch: Batch, *, forces: bool = True, stress: bool = False, create_graph: bool | None = None
    ) -> Prediction:
        """Energies, and their derivatives by one pass of autograd.

        With ``batch.shells`` energies are those of the atoms that count, their sum has derivatives by the
        positions of all atoms of the batch.

        Args:
            batch: frames whose edges reach ``cutoff`` or beyond.
            forces: whether to compute forces.
            stress: whether to compute the stress.
            create_graph: keep what a derivative of forces or stress needs; default: while training.
        """
        derivatives = forces or stress
        keep = self.training if create_graph is None else create_graph
        counted = batch.num_counted
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() or derivatives),
            self._weights_as_constants(derivatives and not keep),
        ):
            vectors = self.edge_vectors(batch)
            if derivatives and not vectors.requires_grad:
                vectors.requires_grad_()
            interaction, atomic = self.energies(vectors, batch)
            prediction = Prediction(segment_sum(atomic, batch.atom_ptr.clamp(max=counted)), atomic)
            if derivatives:
                with without_gradients("weight"):
                    (gradient,) = torch.autograd.grad(
                        interaction.sum(), vectors, create_graph=keep, materialize_grads=True
                    )
                gradient, vectors = gradient.double(), vectors.double()
                prediction.forces = _forces(gradient, batch) if forces else None
                prediction.stress = _stress(gradient, vectors, batch) if stress else None
        if derivatives and not keep:
            prediction.energy, prediction.atomic_energies = prediction.energy.detach(), atomic.detach()
            prediction.stress = prediction.stress.detach() if prediction.stress is not None else None
        return prediction

    def energies(self, vectors: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Energies of the atoms that count without and with their E0, [counted] eV each, in float64.

        Args:
            vectors: [edges, 3] Å, model dtype, from sender to receiver.
            batch: its positions, cells and shifts are not read.
        """
        interaction = self.interaction_energies(vectors, batch).double()
        for term in self.pair_terms:
            interaction = interaction + term(vectors, batch).double()
        interaction = interaction[: batch.num_counted]
        return interaction, interaction + self._e0(interaction)[batch.species[: batch.num_counted]]

    def edge_vectors(self, batch: Batch) -> Tensor:
        """[edges, 3] Å, from sender to receiver: formed in float64, then cast to the model's dtype.

        Atoms far from each other and from the origin may be neighbours across the cell's faces.
        """
        positions = batch.positions
        difference = positions.index_select(0, batch.receiver) - positions.index_select(0, batch.sender)
        if batch.num_frames == 1:  # no cell an edge: they would be most of a large frame's memory here
            shift = batch.shift @ batch.cell[0]
        else:
            frame = batch.frame.index_select(0, batch.receiver)
            shift = (batch.shift.unsqueeze(1) @ batch.cell.index_select(0, frame)).squeeze(1)
        return (difference + shift).to(self.dtype)

    @contextmanager
    def _weights_as_constants(self, chosen: bool) -> Iterator[None]:
        """Inside, autograd keeps nothing for gradients by weights, if that is chosen."""
        weights = [p for p in self.parameters() if p.requires_grad] if chosen else []
        for weight in weights:
            weight.requires_grad_(False)
        try:
            yield
        finally:
            for weight in weights:
                weight.requires_grad_(True)


def _e0_tuple(numbers: tuple[int, ...], e0s: Mapping[int, float] | Sequence[float]) -> tuple[float, ...]:
    if isinstance(e0s, Mapping):
        table = {int(z): float(e) for z, e in e0s.items()}
        missing = [z for z in numbers if z not in table]
        if missing:
            raise InputError(f"e0s has no energy for atomic numbers {missing}; it has {sorted(table)}")
        return tuple(table[z] for z in numbers)
    if len(e0s) != len(numbers):
        raise InputError(f"e0s has {len(e0s)} values for {len(numbers)} species; give one for each")
    return tuple(float(e) for e in e0s)


def _forces(gradient: Tensor, batch: Batch) -> Tensor:
    """-dE/dpositions [atoms, 3] from dE/dvectors [edges, 3], vector = receiver - sender."""
    received = segment_sum(gradient, batch.row_ptr)
    return (-received).index_add(0, batch.sender, gradient)


def _stress(gradient: Tensor, vectors: Tensor, batch: Batch) -> Tensor:
    """(1/V) dE/dstrain [frames, 3, 3] for vectors -> vectors (1 + strain), strain symmetric."""
    if batch.num_frames == 1:
        virial = (vectors.t() @ gradient).unsqueeze(0)
    else:
        products = (vectors.unsqueeze(2) * gradient.unsqueeze(1)).flatten(1)
        virial = segment_sum(products, batch.row_ptr[batch.atom_ptr]).view(-1, 3, 3)
    volume = torch.linalg.det(batch.cell).abs() if batch.layout is None else batch.layout.volume
    stress = 0.5 * (virial + virial.transpose(1, 2)) / volume.where(volume > 0, 1.0).view(-1, 1, 1)
    # Filled in at the end, so that gradients of the other frames stay finite.
    return stress.masked_fill((volume == 0).view(-1, 1, 1), float("nan"))
