"""Models of mace-torch, converted. This is the one place that imports mace-torch.

A mace-torch checkpoint is a pickle of the whole model: reading it executes code that the file names. It is
therefore read only when the caller says that the file is trusted.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from msmlff.data.batch import Batch
from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models.architecture import MACEArchitecture
from msmlff.models.mace import MACE
from msmlff.nn.convolution import ScaleConvolution
from msmlff.nn.coupling import coupling_paths, symmetric_part
from msmlff.nn.e3nn_import import o3
from msmlff.nn.symmetric_contraction import SymmetricContraction

_VARIABLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_SUPPORTED = (
    "MACE or ScaleShiftMACE with RealAgnostic(Residual)InteractionBlock first and RealAgnosticResidual"
    "InteractionBlock after it, Bessel functions, one head, hidden irreps Kx0e (+ Kx1o (+ Kx2e ..)), silu"
)


def import_mace(path: str | Path, *, trust: bool = False) -> MACE:
    """The model of a mace-torch checkpoint (written by mace-torch 0.3.x with e3nn 0.4.4).

    Args:
        path: the file, a pickled model.
        trust: must be True: unpickling runs code from the file, so it must come from a source you trust.

    Raises:
        InputError: not trusted, no such file, not a mace-torch model, or one without a counterpart here.
    """
    path = Path(path)
    if not trust:
        raise InputError(
            f"{path}: a mace-torch checkpoint is a pickle, and reading it runs code from the file; if you "
            "trust its source, say so: trust=True (on the command line --trust)"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    mace_modules()
    try:
        # weights_only=False on purpose: the file holds a whole pickled model, and the user vouched for it.
        module = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling foreign bytes can raise anything
        raise InputError(f"{path}: not a mace-torch model that can be read here ({error})") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{path}: holds a {type(module).__name__}; give the .model file of mace-torch")
    return convert_mace(module, str(path))


def convert_mace(module: nn.Module, source: str = "mace-torch model") -> MACE:
    """The same model as ours, in the dtype of ``module``; checked on a small cluster before it is returned.

    Raises:
        InputError: a variant without a counterpart here, or a result that differs.
    """
    mace = mace_modules()
    try:
        model = _blank(module, mace, source)
        dtype = next(module.parameters()).dtype
        model.to(torch.float64)
        with torch.no_grad():
            _copy_weights(model, module)
        reference = _reference_energy(module, model.double(), source)
    except (AttributeError, KeyError, IndexError) as error:
        raise _unsupported(source, f"its parts are not where they were expected ({error})") from error
    _check_equal(model, reference, source)
    return model.to(dtype)


def mace_modules() -> ModuleType:
    """``mace.modules``, imported once; the environment variable that mace-torch sets is put back."""
    before = os.environ.get(_VARIABLE)
    try:
        # It greets on standard output, which belongs to the command that runs.
        with contextlib.redirect_stdout(io.StringIO()):
            import mace.modules as modules
    except ImportError as error:
        raise InputError(
            f"mace-torch cannot be imported ({error}): pip install mace-torch==0.3.16"
        ) from error
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before
    return modules


def _unsupported(source: str, reason: str) -> InputError:
    return InputError(f"{source}: {reason}; what can be converted is {_SUPPORTED}")


def _blank(module: Any, mace: Any, source: str) -> MACE:
    """The equal MACE, its weights not yet copied."""
    if type(module) not in (mace.MACE, mace.ScaleShiftMACE):
        raise _unsupported(source, f"the model is a {type(module).__name__}")
    residual_first = _check_blocks(module, mace, source)
    basis = module.radial_embedding.bessel_fn
    first, product = module.interactions[0], module.products[0]
    channels, hidden_l_max = _irreps(product.linear.irreps_out, source)
    numbers = module.atomic_numbers.tolist()
    e0s = module.atomic_energies_fn.atomic_energies.reshape(-1).tolist()
    if numbers != sorted(numbers) or len(e0s) != len(numbers):
        raise _unsupported(source, "its species are not in ascending order, or it has more than one head")
    neighbors = {float(block.avg_num_neighbors) for block in module.interactions}
    correlations = {c.correlation for p in module.products for c in p.symmetric_contractions.contractions}
    if len(neighbors) > 1 or len(correlations) > 1:
        raise _unsupported(source, "its layers differ in correlation or in the mean number of neighbours")
    scale, shift = 1.0, 0.0
    if isinstance(module, mace.ScaleShiftMACE):
        scale, shift = module.scale_shift.scale.item(), module.scale_shift.shift.item()
    layers = len(module.interactions)
    readout_hidden = module.readouts[-1].hidden_irreps.dim if layers > 1 else 16
    architecture = MACEArchitecture(
        cutoff=float(module.r_max),
        l_max=max(ir.l for _, ir in first.edge_attrs_irreps),
        channels=channels,
        hidden_l_max=hidden_l_max,
        correlation=correlations.pop(),
        layers=layers,
        num_bessel=len(basis.bessel_weights),
        cutoff_power=int(module.radial_embedding.cutoff_fn.p),
        radial_mlp=tuple(first.conv_tp_weights.hs[1:-1]),
        readout_hidden=readout_hidden,
        shift="constant" if shift else "none",
        residual_first=residual_first,
    )
    statistics = Statistics((neighbors.pop(),), (shift,) * len(numbers), scale)
    return MACE(numbers, e0s, architecture, statistics)


def _check_blocks(module: Any, mace: Any, source: str) -> bool:
    """Raises where a block is not of a supported kind; returns whether the first one is residual."""
    blocks = mace.blocks
    first, *others = module.interactions
    residual = blocks.RealAgnosticResidualInteractionBlock
    if type(first) not in (blocks.RealAgnosticInteractionBlock, residual):
        raise _unsupported(source, f"its first interaction is a {type(first).__name__}")
    for block in others:
        if type(block) is not residual:
            raise _unsupported(source, f"an interaction is a {type(block).__name__}")
    embedding = module.radial_embedding
    if type(embedding.bessel_fn) is not mace.radial.BesselBasis:
        raise _unsupported(source, f"its radial basis is {type(embedding.bessel_fn).__name__}")
    if hasattr(embedding, "distance_transform"):
        raise _unsupported(
            source, f"distances are transformed by {type(embedding.distance_transform).__name__}"
        )
    if hasattr(module, "pair_repulsion") or not getattr(embedding, "apply_cutoff", True):
        raise _unsupported(source, "it has a pair repulsion, or a cutoff outside the radial basis")
    if len(module.readouts) != len(module.interactions):
        raise _unsupported(source, "it has no readout for each layer")
    return type(first) is residual


def _irreps(irreps: Any, source: str) -> tuple[int, int]:
    """(channels, l_max) of Kx0e + Kx1o + .."""
    l_max = len(irreps) - 1
    expected = [(irreps[0].mul, (l, (-1) ** l)) for l in range(l_max + 1)]
    if list(irreps) != list(o3.Irreps(expected)):
        raise _unsupported(source, f"its hidden irreps are {irreps}")
    return irreps[0].mul, l_max


def _copy_weights(model: MACE, module: Any) -> None:
    species, channels = len(model.atomic_numbers), model.architecture.channels
    model.embedding.copy_(module.node_embedding.linear.weight.view(species, channels))
    layers: Any = model.layers
    for ours, block, product in zip(layers, module.interactions, module.products, strict=True):
        _copy_convolution(ours.scales[0], block)
        if ours.message_by_species is not None:
            _copy_species_linear(ours.message_by_species.weight, block.skip_tp)
        if ours.skip is not None:
            _copy_species_linear(ours.skip.weight, block.skip_tp)
        _copy_product(ours.product, product.symmetric_contractions)
        for weight, theirs in zip(ours.linear.weights, product.linear.weight_views(), strict=True):
            weight.copy_(theirs)
    readouts: Any = model.readouts
    for ours, theirs in zip(readouts, module.readouts, strict=True):
        if hasattr(theirs, "linear"):
            ours.weight.copy_(theirs.linear.weight[:channels])
        else:
            ours.weight_in.copy_(theirs.linear_1.weight[: ours.weight_in.numel()].view_as(ours.weight_in))
            ours.weight_out.copy_(theirs.linear_2.weight)


def _copy_convolution(ours: ScaleConvolution, block: Any) -> None:
    for weight, theirs in zip(ours.down.weights, block.linear_up.weight_views(), strict=True):
        weight.copy_(theirs)
    *hidden, last = (layer.weight for layer in block.conv_tp_weights.children())
    for weight, theirs in zip(ours.radial.weights, hidden, strict=True):
        weight.copy_(theirs)
    paths, n, channels = ours.radial_weight.shape
    ours.radial_weight.copy_(last.view(n, paths, channels).permute(1, 0, 2))
    views = list(block.linear.weight_views())
    for l, weight in enumerate(ours.up.weights):
        chosen = [view for path, view in zip(ours.paths, views, strict=True) if path.l3 == l]
        weight.copy_(torch.cat(chosen))


def _copy_species_linear(ours: Tensor, skip: Any) -> None:
    """[species, l, in, out] from a fully connected tensor product with one-hot species [in, species, out]."""
    for l, theirs in enumerate(skip.weight_views()):
        if l < ours.shape[1]:
            ours[:, l].copy_(theirs.permute(1, 0, 2))


def _copy_product(ours: SymmetricContraction, theirs: Any) -> None:
    for l_out, contraction in enumerate(theirs.contractions):
        degrees = range(contraction.correlation, 0, -1)
        for degree, weight in zip(degrees, [contraction.weights_max, *contraction.weights], strict=True):
            u = getattr(contraction, f"U_matrix_{degree}").double().numpy()
            basis = _change_of_basis(u, ours.l_max, degree, l_out)
            ours.weight(l_out, degree).copy_(torch.einsum("pq,zqk->zpk", basis, weight.double()))


def _change_of_basis(u: np.ndarray, l_max: int, degree: int, l_out: int) -> Tensor:
    """[our paths, their paths]: expresses the symmetric parts of their couplings in ours.

    The identity for mace-torch's standard basis; models made with cuEquivariance have a reduced one.
    """
    ours = np.stack(coupling_paths(l_max, degree, l_out), axis=-1)
    u = u.reshape(*ours.shape[:-1], -1)
    if u.shape == ours.shape and np.allclose(u, ours, atol=1e-5):
        return torch.eye(u.shape[-1], dtype=torch.float64)

    def flat(couplings: np.ndarray) -> np.ndarray:
        parts = [symmetric_part(couplings[..., p]).ravel() for p in range(couplings.shape[-1])]
        return np.stack(parts, axis=1)

    solution, *_ = np.linalg.lstsq(flat(ours), flat(u), rcond=1e-8)
    return torch.from_numpy(solution)


def _probe(model: MACE) -> Batch:
    """A random cluster with every species, its neighbours within the cutoff."""
    rng = np.random.default_rng(0)
    numbers = np.resize(np.array(model.atomic_numbers), max(8, len(model.atomic_numbers)))
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 3), axis=-1).reshape(-1, 3)[: len(numbers)]
    spacing = 0.4 * model.cutoff
    positions = spacing * (grid + rng.uniform(-0.2, 0.2, grid.shape))
    frame = Configuration(numbers, positions)
    neighbors = neighbor_list(positions, frame.cell, frame.pbc, model.cutoff)
    return collate([frame], [neighbors], model.atomic_numbers)


def mace_input(batch: Batch, num_species: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """A Batch as the dictionary that mace-torch's models of ``dtype`` take (positions are copied)."""
    frame = batch.frame[batch.receiver]
    return {
        "positions": batch.positions.to(dtype, copy=True),
        "node_attrs": nn.functional.one_hot(batch.species, num_species).to(dtype),
        "edge_index": torch.stack([batch.sender, batch.receiver]),
        "unit_shifts": batch.shift.to(dtype),
        "shifts": (batch.shift.unsqueeze(1) @ batch.cell[frame]).squeeze(1).to(dtype),
        "cell": batch.cell.reshape(-1, 3).to(dtype),
        "batch": batch.frame,
        "ptr": batch.atom_ptr,
    }


def _reference_energy(module: Any, model: MACE, source: str) -> float:
    """eV, what the given module says of the probe, in float64."""
    dtype = next(module.parameters()).dtype
    try:
        module.double()
        data = mace_input(_probe(model), len(model.atomic_numbers), torch.float64)
        return float(module(data, compute_force=False)["energy"].item())
    except RuntimeError as error:
        raise _unsupported(source, f"it cannot be evaluated ({error})") from error
    finally:
        module.to(dtype)


def _check_equal(model: MACE, reference: float, source: str) -> None:
    energy = float(model(_probe(model), forces=False).energy.item())
    scale = abs(reference - sum(model.e0s)) + 1e-3 * abs(reference) + 1e-6
    if abs(energy - reference) > 1e-5 * scale:
        raise _unsupported(
            source, f"the converted model gives {energy} eV where the original gives {reference}"
        )
