"""A model in torch-sim (package torch-sim-atomistic): batched dynamics and relaxation of its own."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from msmlff.data.batch import Batch
from msmlff.data.model_path import model_file
from msmlff.data.neighbors_device import device_neighbor_list
from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.models.files import load_model
from msmlff.nn.ops import check_backend, use_backend

try:
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    raise InputError(f"torch-sim cannot be imported ({error}): pip install 'msmlff[torch-sim]'") from error


class TorchSimModel(ModelInterface):
    """Energies, forces and stresses of the systems of a torch-sim state, as torch-sim takes them.

    A call returns energy [systems] eV, E0 included, forces [atoms, 3] eV/Å and stress [systems, 3, 3] eV/Å³
    (NaN where a system is not periodic), in the type of the state. Neighbours are searched at every call.

    Args:
        model: a run folder, a model file, or a model, which is copied.
        device: where to run; None: where a model is, and a GPU for a file if there is one.
        dtype: of states, and so of the positions; the network's stays as trained, unless ``network_dtype``.
        network_dtype: of the network; None: as the model is.
        backend: of the operations, a name of ``msmlff.nn.ops.available_backends``; None: the first that can
            run.
        compute_forces, compute_stress: whether to.

    Raises:
        InputError: no model there, a backend that cannot run. In a call: an element the model does not know,
            positions that are not finite.
    """

    def __init__(
        self,
        model: ForceField | str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
        network_dtype: torch.dtype | None = None,
        backend: str | None = None,
        compute_forces: bool = True,
        compute_stress: bool = True,
    ) -> None:
        super().__init__()
        if device is None:
            here = next(model.parameters()).device if isinstance(model, ForceField) else None
            device = here or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._device, self._dtype = torch.device(device), dtype
        self._compute_forces, self._compute_stress = compute_forces, compute_stress
        if backend is not None:
            check_backend(backend, self._device.type)
        self.backend = backend
        loaded = copy.deepcopy(model) if isinstance(model, ForceField) else load_model(model_file(model))
        self.model = loaded.to(device=self._device, dtype=network_dtype).eval().requires_grad_(False)
        numbers = torch.tensor(self.model.atomic_numbers)
        table = torch.full((len(chemical_symbols),), -1)
        table[numbers] = torch.arange(len(numbers))
        self._species = table.to(self._device)

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Energies and, as chosen, forces and stresses of a state; the class says in which units."""
        batch = self._batch(state)
        with nullcontext() if self.backend is None else use_backend(self.backend):
            found = self.model(
                batch, forces=self._compute_forces, stress=self._compute_stress, create_graph=False
            )
        results = {"energy": found.energy, "forces": found.forces, "stress": found.stress}
        return {name: t.detach().to(state.dtype) for name, t in results.items() if t is not None}

    def _batch(self, state: Any) -> Batch:
        species = self._species[state.atomic_numbers.long()]
        if bool((species < 0).any()):
            unknown = sorted({int(z) for z in state.atomic_numbers[species < 0]})
            known = [chemical_symbols[z] for z in self.model.atomic_numbers]
            raise InputError(
                f"the model never saw {', '.join(chemical_symbols[z] for z in unknown)}, it knows "
                f"{', '.join(known)}: use a model trained on these elements"
            )
        pbc = np.broadcast_to(np.asarray(torch.as_tensor(state.pbc).cpu()), (3,)).copy()
        positions = state.positions.detach().double()
        cell = state.row_vector_cell.detach().double()
        if not pbc.all():  # a cell whose volume means nothing
            cell = cell * torch.from_numpy(pbc).to(cell).view(1, 3, 1)
        counts = torch.bincount(state.system_idx, minlength=len(cell))
        atom_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        first = atom_ptr.tolist()
        lists = [
            device_neighbor_list(positions[a:b], h if pbc.any() else None, pbc, self.model.cutoff)
            for a, b, h in zip(first[:-1], first[1:], cell, strict=True)
        ]
        sender = torch.cat([found[0] + a for found, a in zip(lists, first, strict=False)])
        receiver = torch.cat([found[1] + a for found, a in zip(lists, first, strict=False)])
        return Batch(
            positions=positions,
            species=species,
            frame=state.system_idx,
            atom_ptr=atom_ptr,
            cell=cell,
            sender=sender,
            receiver=receiver,
            shift=torch.cat([found[2] for found in lists]),
            row_ptr=torch.searchsorted(receiver, torch.arange(len(positions) + 1, device=receiver.device)),
        )
