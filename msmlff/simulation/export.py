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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
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
from msmlff.nn.ops import reference, use_backend
from msmlff.nn.ops.types import MonomialTable
from msmlff.nn.ops.types import Path as CouplingPath
from msmlff.nn.species import SpeciesGroups
from msmlff.simulation.calculator import MSMLFFCalculator
from msmlff.simulation.files import explained

INPUTS = ("positions", "cell", "species", "sender", "receiver", "shift")
OUTPUTS = ("energy", "atomic_energies", "forces", "stress")
#: Of the largest value, by which results of a package may differ from the model's.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}
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
        MSMLFFError: compiled code whose results are not the model's; nothing is written.
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
    partial = path.with_name(f"{path.stem}.writing.pt2")
    try:
        compile_package(program, partial, settings)
        found = parity(model, load_package(partial)[0])
        if not found.relative <= TOLERANCE[model.dtype]:
            raise MSMLFFError(
                f"{path} was not written: PyTorch's compiler made wrong code of this model: forces differ by "
                f"up to {found.force:.2g} eV/Å, results by up to {found.relative:.2g} of the largest; "
                f"try another version of torch (this is {torch.__version__})"
            )
        partial.replace(path)
    except OSError as error:
        with explained(path):
            raise error
    except RuntimeError as error:
        raise InputError(f"{path}: the model could not be compiled ({str(error).splitlines()[0]})") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def compile_package(program: torch.export.ExportedProgram, path: Path, settings: dict[str, Any]) -> None:
    """Compile a graph into a package at ``path``, by AOTInductor with these settings."""
    # these take seconds
    from torch._inductor.dependencies import Dep, StarDep, WeakDep
    from torch._inductor.scheduler import SchedulerNode
    from torch.utils._ordered_set import OrderedSet

    compute = SchedulerNode.recompute_size_and_body

    def recompute(node: SchedulerNode, *arguments: Any, **options: Any) -> None:
        # To fuse loops PyTorch up to 2.13 finds anew what a kernel reads and then forgets that a sum into a
        # buffer comes before those who read it (pytorch/pytorch issue 185509): they read zeros.
        waits = OrderedSet[Dep](d for d in node.read_writes.reads if isinstance(d, WeakDep | StarDep))
        compute(node, *arguments, **options)
        node.set_read_writes(node.read_writes.with_read(waits).rename(node.mutation_renames))

    with patch.object(SchedulerNode, "recompute_size_and_body", recompute):
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path.absolute()), inductor_configs=settings
        )


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


@dataclass(frozen=True)
class Parity:
    """How far results of a package are from its model's.

    Attributes:
        force: largest difference of a force, eV/Å.
        relative: largest difference of an atom's energy, a force or the stress, each divided by the largest
            of its kind in the system; energies without E0.
    """

    force: float
    relative: float


def parity(model: ForceField, function: Callable[..., Sequence[Tensor]]) -> Parity:
    """A package against its model on rattled crystals and clusters of several sizes.

    Args:
        model: that was exported.
        function: of its package.
    """
    calculator = MSMLFFCalculator(model, backend="reference")
    e0 = np.array(model.e0s)
    differences, relative = list[float](), list[float]()
    for seed, shape in enumerate([(2, 2, 2), (3, 3, 3), (3, 2, 1), (5, 4, 3)]):
        for periodic in (True, False):
            atoms = _rattled(model, shape, periodic, seed)
            species = np.searchsorted(model.atomic_numbers, atoms.numbers)
            found = _results(function, calculator, atoms, species)
            calculator.calculate(atoms)
            expected = calculator.results
            pairs = [(found[1] - e0[species], expected["energies"] - e0[species])]
            pairs.append((found[2], expected["forces"]))
            if periodic:
                pairs.append((full_3x3_to_voigt_6_stress(found[3]), expected["stress"]))
            differences.append(np.abs(found[2] - expected["forces"]).max())
            relative += [np.abs(a - b).max() / (np.abs(b).max() or 1.0) for a, b in pairs]
    return Parity(float(np.max(differences)), float(np.max(relative)))


def _results(
    function: Callable[..., Sequence[Tensor]], calculator: MSMLFFCalculator, atoms: Atoms, species: np.ndarray
) -> list[np.ndarray]:
    """The outputs of a package for atoms."""
    given = torch.from_numpy(species)
    batch = calculator.edges.batch(atoms.positions, atoms.cell.array, atoms.pbc, given)
    found = function(batch.positions, batch.cell[0], given, batch.sender, batch.receiver, batch.shift)
    return [t.numpy() for t in found]


def _rattled(model: ForceField, shape: tuple[int, int, int], periodic: bool, seed: int) -> Atoms:
    """A block of a simple cubic crystal, rattled; the shortest scale sees the nearest neighbours."""
    rng = np.random.default_rng(seed)
    spacing = min(2.4, 0.75 * min(model.scale_cutoffs))
    sites = spacing * np.indices(shape).reshape(3, -1).T
    positions = sites + rng.uniform(0.02, 0.08) * spacing * rng.normal(size=sites.shape)
    numbers = rng.choice(model.atomic_numbers, len(sites))
    return Atoms(numbers, positions, cell=spacing * np.array(shape) if periodic else None, pbc=periodic)


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
        patch.object(reference, "_contraction", _contraction),
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


def _contraction(
    features: Tensor, weights: Sequence[Tensor], couplings: Sequence[Tensor], table: MonomialTable
) -> Tensor:
    """As ``nn.ops.reference._contraction``, each monomial from one of a lower degree."""
    blocks = [(0, torch.ones_like(features[:, :1]))]
    if table.correlation > 1:
        blocks.append((1, features))
    for lower, first, rows in table.products:
        begin, block = next(b for b in reversed(blocks) if b[0] <= lower)
        factor = block[:, lower - begin : lower - begin + 1]
        blocks.append((rows.start, factor * features[:, first:]))
    basis = torch.cat([block for _, block in blocks], dim=1)
    out = []
    for weight, coupling in zip(weights, couplings, strict=True):
        matrix = (coupling @ weight).view(-1, table.dim, basis.shape[1], features.shape[2])
        out.append(torch.einsum("mktc,itc,ikc->imc", matrix, basis, features))
    return torch.cat(out, dim=1)
