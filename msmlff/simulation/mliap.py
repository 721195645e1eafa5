"""Dynamics in LAMMPS with a model, by the unified interface of its ML-IAP package: a pair style.

Each domain computes the energies of its own atoms. Ghost atoms are needed up to one cutoff alone, however
many layers a model has: before each layer but the first, and for dispersion, the features of the ghosts are
brought from the domains that own them, and in the pass for the forces their gradients are taken back there.
LAMMPS does this (``forward_exchange``, ``reverse_exchange``) in builds that have the KOKKOS package, too.

LAMMPS's units must be metal: Å, eV, ps, bar. What LAMMPS asks of an object and what it gives it is in its
python/lammps/mliap and src/ML-IAP/mliap_unified_couple.pyx; it asks for no base class.
"""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.models.files import load_model, read_header, save_model
from msmlff.simulation.files import write_whole

#: Numbers an atom in one exchange on the CPU: LAMMPS's buffers there hold three, those of a force.
HOST_WIDTH = 3


class MLIAPModel:
    """A model as LAMMPS's ``pair_style mliap unified`` takes it.

    Pickled, it is the content of a model file: weights and JSON, and the name of the function that reads it.

    Attributes:
        element_types: symbols of the model's elements, in its order; ``pair_coeff`` gives one for each type.
        rcutfac: Å, half of the cutoff, as LAMMPS has it.
        ndescriptors, nparams: 1, of no meaning here.
        interface: LAMMPS's, which it sets.

    Args:
        model: it is copied; its dtype is the network's.
        record: JSON-able facts to keep in the file.
    """

    def __init__(self, model: ForceField, record: dict[str, Any] | None = None) -> None:
        self.model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        self.record = dict(record or {})
        self.element_types = [chemical_symbols[z] for z in model.atomic_numbers]
        self.rcutfac = 0.5 * model.cutoff
        self.ndescriptors = self.nparams = 1
        self.interface: Any = None
        self._exchanges = max(hops for hops, _ in model.reaches) > 1

    def __reduce__(self) -> tuple[Any, ...]:
        with tempfile.TemporaryDirectory() as folder:
            content = save_model(self.model, Path(folder) / "model.safetensors", self.record).read_bytes()
        return read_content, (content,)

    def compute_descriptors(self, data: Any) -> None:
        """Nothing: LAMMPS calls it before ``compute_forces``."""

    def compute_gradients(self, data: Any) -> None:
        """Nothing: LAMMPS calls it before ``compute_forces``."""

    def compute_forces(self, data: Any) -> None:
        """Energies of the domain's atoms and what LAMMPS makes forces and virial of, into ``data``.

        Every domain must call it, one without atoms, too: the others exchange features with it.

        Args:
            data: LAMMPS's; its pairs (i, j) have i among the domain's own atoms, rij = x_j - x_i.

        Raises:
            InputError: a type that pair_coeff gives no element (NULL, pair_style hybrid); no exchange in
                this build of LAMMPS where the model needs one.
        """
        if self._exchanges and not hasattr(data, "forward_exchange"):
            raise InputError(
                f"this {type(self.model).__name__} passes messages over more than one cutoff, for which this "
                "LAMMPS would have to exchange features between domains: take one built with KOKKOS, run "
                "with -k on -sf kk; or take fix external (docs/lammps.md)"
            )
        pairs = _pairs(data)
        self.model.to(pairs.vectors.device)
        vectors = pairs.vectors.to(self.model.dtype).requires_grad_()
        exchange = Exchange(data, pairs.own, vectors)
        pairs.batch.exchange = exchange if self._exchanges else None
        # LAMMPS's exchange wants the thread it calls from, in the backward pass on a GPU, too
        with torch.enable_grad(), torch.autograd.set_multithreading_enabled(False):
            interaction, energies = self.model.energies(vectors, pairs.batch)
            total = interaction[: pairs.own].sum() + exchange.thread.double()
            (gradient,) = torch.autograd.grad(total, vectors, materialize_grads=True)
        _write(data, energies[: pairs.own].detach(), pairs.forces(gradient.double()))


def read_content(content: bytes) -> MLIAPModel:
    """The model of a file that was read into memory; what a pickle of ``MLIAPModel`` calls."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        return MLIAPModel(load_model(path), read_header(path)["record"])


def export_mliap(model: ForceField, path: str | Path, record: dict[str, Any] | None = None) -> Path:
    """Write a model for ``pair_style mliap unified``, of any family, in its dtype.

    Args:
        model: its weights are written as they are.
        path: of the file. LAMMPS unpickles it; one that ends in .pt or .pth it reads with ``torch.load``.
        record: JSON-able facts to keep in it.

    Returns:
        the path.

    Raises:
        InputError: a folder that does not exist, or a record that is not JSON.
        OutputError: the file cannot be written; an earlier one is as it was.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    unified, content = MLIAPModel(model, record), io.BytesIO()
    if path.suffix in (".pt", ".pth"):
        torch.save(unified, content, pickle_protocol=4)
    else:
        pickle.dump(unified, content, protocol=4)
    write_whole(path, content.getvalue())
    return path


class Exchange:
    """Brings features of a domain's own atoms to all its atoms; the gradients go the other way.

    All domains must make the same exchanges in the same order, in both directions, whatever they have to
    exchange. So a zero that depends on the exchange before is added to what is exchanged next: autograd then
    comes by all of them, the last one first, even where a domain has no edges.

    Attributes:
        thread: [] zero, depends on the last exchange.

    Args:
        data: LAMMPS's.
        own: atoms of the domain without its ghosts.
        vectors: [edges, 3], what gradients are taken by.
    """

    def __init__(self, data: Any, own: int, vectors: Tensor) -> None:
        self._data, self._own = data, own
        self.thread = 0.0 * vectors.sum()

    def __call__(self, features: Tensor) -> Tensor:
        """[own atoms, ...] -> [atoms, ...]; own atoms come first, where there are none that of ``_pairs``."""
        own = features[: self._own] + self.thread.to(features.dtype)
        received: Tensor = _Exchange.apply(own, self._data)
        self.thread = 0.0 * received[:1].sum()
        return received if self._own else torch.cat([features, received])


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, data: Any) -> Tensor:
        ctx.data, ctx.own = data, features.shape[0]
        out = features.new_zeros(int(data.ntotal), *features.shape[1:])
        out[: ctx.own] = features
        _in_parts(data.forward_exchange, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        _in_parts(ctx.data.reverse_exchange, grad)
        return grad[: ctx.own], None


def _in_parts(exchange: Any, values: Tensor) -> None:
    """LAMMPS's exchange of values [atoms, ...], contiguous, in place."""
    columns = values.flatten(1)
    if values.is_cuda:
        torch.cuda.synchronize()
        exchange(columns.clone(), columns, columns.shape[1])
        torch.cuda.synchronize()
        return
    for first in range(0, columns.shape[1], HOST_WIDTH):
        part = columns[:, first : first + HOST_WIDTH].contiguous()
        received = part.clone()
        exchange(part, received, part.shape[1])
        columns[:, first : first + HOST_WIDTH] = received


@dataclass(frozen=True)
class _Pairs:
    """The pairs of a domain as edges.

    Attributes:
        own: atoms of the domain without its ghosts.
        batch: its atoms, own ones first; LAMMPS gives no positions, they are zeros. Where a domain has none,
            there is one without neighbours in their place: kernels need not know of no atoms.
        vectors: [edges, 3] Å, float64, from sender to receiver.
        number: [edges] long, LAMMPS's number of the pair of each edge.
        count: of LAMMPS's pairs.
    """

    own: int
    batch: Batch
    vectors: Tensor
    number: Tensor
    count: int

    def forces(self, gradient: Tensor) -> Tensor:
        """dE/drij [pairs, 3] eV/Å, which LAMMPS adds to i's force, from dE/dvectors [edges, 3]."""
        forces = gradient.new_zeros(self.count, 3)
        forces[self.number] = -gradient  # the vector of an edge is x_i - x_j
        return forces


def _pairs(data: Any) -> _Pairs:
    own, atoms, count = int(data.nlocal), int(data.ntotal), int(data.npairs)
    # LAMMPS has no arrays of no elements
    species = torch.as_tensor(data.elems).long() if atoms else torch.zeros(0, dtype=torch.long)
    if int(data.nlistatoms) != own or bool((species < 0).any()):
        raise InputError("some atoms have no element: pair_coeff must give one for each type, and no NULL")
    device = species.device
    receiver, sender = torch.zeros(2, 0, dtype=torch.long, device=device)
    vectors = torch.zeros(0, 3, dtype=torch.float64, device=device)
    if count:
        receiver, sender = torch.as_tensor(data.pair_i).long(), torch.as_tensor(data.pair_j).long()
        vectors = -torch.as_tensor(data.rij).double()
    number = torch.argsort(vectors.square().sum(dim=1))
    number = number[torch.argsort(receiver[number], stable=True)]
    number = number[receiver[number] < own]
    receiver, counted = receiver[number], max(own, 1)
    if own == 0:
        species, atoms = torch.cat([species.new_zeros(1), species]), atoms + 1
    batch = Batch(
        positions=vectors.new_zeros(1, 3).expand(atoms, 3),
        species=species,
        frame=torch.zeros_like(species),
        atom_ptr=torch.tensor([0, atoms], device=device),
        cell=vectors.new_zeros(1, 3, 3),
        sender=sender[number],
        receiver=receiver,
        shift=vectors.new_zeros(1, 3).expand(len(number), 3),
        row_ptr=torch.searchsorted(receiver, torch.arange(atoms + 1, device=device)),
        shells=(counted, atoms),
    )
    return _Pairs(own, batch, vectors[number], number, count)


def _write(data: Any, energies: Tensor, forces: Tensor) -> None:
    """Energies [own atoms] eV and forces [pairs, 3] eV/Å, in float64, to LAMMPS."""
    data.energy = float(energies.sum())
    if len(energies):
        place = getattr(data, "eatoms", None)  # without KOKKOS it can only be set
        if place is None:
            data.eatoms = energies.numpy()
        else:
            torch.as_tensor(place).copy_(energies)
    if len(forces):
        if forces.is_cuda:
            torch.cuda.synchronize()
        data.update_pair_forces(forces if forces.is_cuda else forces.numpy())
