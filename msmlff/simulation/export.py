"""A model as a package of compiled code (AOTInductor) that C++ programs run without Python.

The package takes and returns tensors, in the order of ``INPUTS`` and ``OUTPUTS``; reals are float64:

    positions        [atoms, 3] Å, need not be wrapped
    cell             [3, 3] Å, rows are lattice vectors; zeros where there is none
    species          [atoms] int64, index into the model's elements
    sender           [edges] int64
    receiver         [edges] int64, ascending
    shift            [edges, 3] whole numbers of lattice vectors

    energy           [] eV
    atomic_energies  [atoms] eV
    forces           [atoms, 3] eV/Å
    stress           [3, 3] eV/Å³, (1/V) dE/dstrain; NaN without a cell

The vector of an edge is positions[receiver] - positions[sender] + shift @ cell. Every directed pair below the
cutoff is an edge; edges beyond it change nothing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from ase import Atoms
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import msmlff
from msmlff.data.batch import Batch
from msmlff.errors import InputError, MSMLFFError
from msmlff.models.base import ForceField
from msmlff.models.message_passing import MessagePassingModel
from msmlff.nn import convolution as convolution_module
from msmlff.nn import segment
from msmlff.nn.edges import Rows, ScaleEdges
from msmlff.nn.layout import Layout, Within
from msmlff.nn.ops import use_backend
from msmlff.nn.ops.types import Path as CouplingPath
from msmlff.nn.species import SpeciesGroups
from msmlff.simulation.calculator import MSMLFFCalculator

INPUTS = ("positions", "cell", "species", "sender", "receiver", "shift")
OUTPUTS = ("energy", "atomic_energies", "forces", "stress")
#: eV/Å, by which forces of a package may differ from the model's.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}
#: Of the description in a package's metadata.
KEY = "msmlff"


def export_package(model: ForceField, path: str | Path, record: dict[str, Any] | None = None) -> Path:
    """Compile energy, forces and stress of a model for any number of atoms and edges from two on.

    Weights are in the package, in the model's dtype. It runs on the kind of processor it was made on.

    Args:
        model: of the MACE or NequIP family, on the CPU.
        path: of the package, a name that ends in .pt2.
        record: JSON-able facts to keep in it beside the elements, the cutoff and the units.

    Returns:
        the path.

    Raises:
        InputError: a model of another family or on another device, a name that does not end in .pt2, a folder
            that does not exist, or no C++ compiler.
        MSMLFFError: compiled code whose forces are not the model's; nothing is written.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise InputError(f"{path}: the name of a package ends in .pt2")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    description = {
        "version": msmlff.__version__,
        "torch": torch.__version__,
        "elements": list(model.atomic_numbers),
        "cutoff": model.cutoff,
        "dtype": str(model.dtype).removeprefix("torch."),
        "inputs": list(INPUTS),
        "outputs": list(OUTPUTS),
        "record": record or {},
    }
    settings = {"aot_inductor.metadata": {KEY: json.dumps(description)}}
    program = exported_program(model)
    partial = path.with_name(f"{path.stem}.writing.pt2").absolute()
    try:
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(partial), inductor_configs=settings
        )
        difference = parity(model, load_package(partial)[0])
        if not difference <= TOLERANCE[model.dtype]:
            raise MSMLFFError(
                f"{path} was not written: PyTorch's compiler made wrong code of this model: forces differ by "
                f"up to {difference:.2g} eV/Å; try another version of torch (this is {torch.__version__})"
            )
        partial.replace(path)
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path}: the model could not be compiled ({str(error).splitlines()[0]})") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def load_package(path: str | Path) -> tuple[Callable[..., list[Tensor]], dict[str, Any]]:
    """The function of a package, and its description: elements, cutoff, dtype, names of inputs and outputs.

    Raises:
        InputError: no such file, or not a package of this module.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        loaded = torch._inductor.aoti_load_package(str(path))
        description = json.loads(loaded.loader.get_metadata()[KEY])
    except (RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a package of `msmlff export` ({error})") from error
    return loaded, description


def parity(model: ForceField, function: Callable[..., Sequence[Tensor]]) -> float:
    """Largest difference in eV/Å of a force of a package from that of its model, in a distorted crystal.

    Args:
        model: that was exported.
        function: of its package.
    """
    rng = np.random.default_rng(0)
    sites = 2.4 * np.indices((3, 3, 3)).reshape(3, -1).T
    numbers = rng.choice(model.atomic_numbers, len(sites))
    positions = sites + 0.1 * rng.normal(size=sites.shape)
    atoms = Atoms(numbers=numbers, positions=positions, cell=np.eye(3) * 7.2, pbc=True)
    calculator = MSMLFFCalculator(model, backend="reference")
    expected = calculator.get_forces(atoms)
    species = torch.from_numpy(np.searchsorted(model.atomic_numbers, numbers))
    batch = calculator.edges.batch(atoms.positions, atoms.cell.array, atoms.pbc, species)
    found = function(batch.positions, batch.cell[0], species, batch.sender, batch.receiver, batch.shift)
    return float(np.abs(found[2].numpy() - expected).max())


def exported_program(model: ForceField) -> torch.export.ExportedProgram:
    """Energy, forces and stress of a model as one graph of PyTorch's operations.

    Derivatives are traced through with sizes left open, so the graph needs no autograd.

    Raises:
        InputError: as ``export_package``.
    """
    if not isinstance(model, MessagePassingModel):
        raise InputError(
            f"a {type(model).__name__} cannot be exported: its angles have sizes of their own. Models of the "
            "MACE and NequIP families can"
        )
    if next(model.parameters()).device.type != "cpu":
        raise InputError("export a model on the CPU: load_model(path)")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    example = _example(model)
    with _traceable(model):
        graph = make_fx(_function(model), tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    atoms, edges = torch.export.Dim("atoms", min=2), torch.export.Dim("edges", min=2)
    shapes = ({0: atoms}, None, {0: atoms}, {0: edges}, {0: edges}, {0: edges})
    return torch.export.export(graph, example, dynamic_shapes=shapes, strict=False)


def _function(model: ForceField) -> Callable[..., tuple[Tensor, ...]]:
    """The tensors of ``INPUTS`` -> those of ``OUTPUTS``."""
    terms: Any = model.pair_terms

    def compute(
        positions: Tensor, cell: Tensor, species: Tensor, sender: Tensor, receiver: Tensor, shift: Tensor
    ) -> tuple[Tensor, ...]:
        bounds = torch.arange(positions.shape[0] + 1)
        rows = Rows(sender, receiver, torch.searchsorted(receiver, bounds))
        every = torch.arange(sender.shape[0])
        a, b, c = cell.unbind()
        layout = Layout(
            tuple(Within(term.cutoff, every, rows) for term in terms),
            _EverySpecies(species, None, None, (0,) * len(model.atomic_numbers)),
            torch.dot(a, torch.linalg.cross(b, c)).abs().unsqueeze(0),
        )
        batch = Batch(
            positions=positions,
            species=species,
            frame=torch.zeros_like(species),
            atom_ptr=torch.cat([bounds[:1], bounds[-1:]]),
            cell=cell.unsqueeze(0),
            sender=sender,
            receiver=receiver,
            shift=shift,
            row_ptr=rows.row_ptr,
            layout=layout,
        )
        p = model(batch, forces=True, stress=True, create_graph=False)
        # p.energy asks for the number of atoms as a number, which would fix it
        return p.atomic_energies.sum(), p.atomic_energies, p.forces, p.stress[0]

    return compute


def _example(model: ForceField) -> tuple[Tensor, ...]:
    """Inputs to trace with: sizes that nothing else in a model has."""
    atoms, each = 11, 7
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(atoms, 3, generator=generator, dtype=torch.float64) * model.cutoff
    receiver = torch.arange(atoms).repeat_interleave(each).clone()  # no view of what is traced
    sender = (receiver + torch.arange(1, each + 1).repeat(atoms)) % atoms
    cell = torch.eye(3, dtype=torch.float64) * 3 * model.cutoff
    shift = torch.zeros(len(sender), 3, dtype=torch.float64)
    return positions, cell, torch.arange(atoms) % len(model.atomic_numbers), sender, receiver, shift


@contextmanager
def _traceable(model: MessagePassingModel) -> Iterator[None]:
    """For the time of a trace: no size depends on a value, and no operation is another library's."""
    with (
        use_backend("reference"),
        torch.backends.opt_einsum.flags(enabled=False),  # its search for an order compares sizes
        patch.object(model, "_hidden", partial(_hidden, model)),
        patch.object(segment, "_SegmentSum", _PlainSum),
        patch.object(convolution_module, "convolution", _convolution),
        patch.object(convolution_module, "species_convolution", _species_convolution),
    ):
        yield


class _PlainSum:
    """``nn.segment``'s sum in operations that a compiler knows."""

    @staticmethod
    def apply(values: Tensor, pointer: Tensor) -> Tensor:
        items = torch.arange(values.shape[0])
        row = torch.searchsorted(pointer, items, right=True) - 1
        total = values.new_zeros(pointer.shape[0] - 1, *values.shape[1:])
        return total.index_add(0, row, values)


class _EverySpecies(SpeciesGroups):
    """All atoms for each species, of which those of the species are taken afterwards: shapes stay known.

    It costs as many times the work as there are species in what has weights of each species.
    """

    def split(self, values: Tensor) -> list[Tensor]:
        return [values] * len(self.sizes)

    def join(self, parts: list[Tensor]) -> Tensor:
        joined = parts[0]
        for z, part in enumerate(parts[1:], start=1):
            chosen = (self.species == z).view(-1, *[1] * (part.dim() - 1))
            joined = torch.where(chosen, part, joined)
        return joined


def _hidden(model: MessagePassingModel, vectors: Tensor, batch: Batch) -> list[Tensor]:
    """Features [atoms, (l + 1)^2, channels] after each layer, every scale over all edges.

    Beyond a scale's cutoff its radial functions are zero.
    """
    length = vectors.square().sum(dim=1).sqrt()
    unit = vectors / length.unsqueeze(1)
    assert batch.layout is not None
    rows = Rows(batch.sender, batch.receiver, batch.row_ptr)
    edges = [
        ScaleEdges(rows, batch.sender, basis(length), harmonics(unit), "reference")
        for harmonics, basis in zip(model.harmonics, model.radial_bases, strict=True)
    ]
    table, hidden = model.species_table(), list[Tensor]()
    for layer in model.layers:
        before = hidden[-1] if hidden else None
        hidden.append(layer(before, table, batch.species, batch.layout.groups, edges))
    return hidden


def _convolution(
    features: Tensor,
    phi: Tensor,
    weight: Tensor,
    couplings: Sequence[Tensor],
    paths: Sequence[CouplingPath],
    edges: ScaleEdges,
) -> list[Tensor]:
    """As ``nn.ops.reference.convolution``, in an order that a compiler fuses."""
    assert isinstance(edges.rows, Rows)
    sums: dict[int, list[Tensor]] = {}
    for p, path in enumerate(paths):
        sent = features.index_select(0, edges.sender)[:, path.l1**2 : (path.l1 + 1) ** 2]
        angular = edges.harmonics[:, path.l2**2 : (path.l2 + 1) ** 2] @ couplings[p]
        angular = angular.view(-1, 2 * path.l1 + 1, 2 * path.l3 + 1, 1)
        radial = (phi @ weight[p]).unsqueeze(1)
        message = (angular * (radial * sent).unsqueeze(2)).sum(dim=1)
        total = message.new_zeros(features.shape[0], *message.shape[1:])
        total = total.index_add(0, edges.rows.receiver, message)
        sums.setdefault(path.l3, []).append(total)
    return [torch.cat(of_paths, dim=2) for _, of_paths in sorted(sums.items())]


def _species_convolution(
    table: Tensor,
    species: Tensor,
    phi: Tensor,
    weight: Tensor,
    paths: Sequence[CouplingPath],
    edges: ScaleEdges,
) -> list[Tensor]:
    """As ``nn.ops.reference.species_convolution``."""
    couplings = [torch.eye(2 * path.l2 + 1, dtype=phi.dtype) for path in paths]
    return _convolution(table.index_select(0, species).unsqueeze(1), phi, weight, couplings, paths, edges)
