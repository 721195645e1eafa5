"""A model as an ASE calculator."""

from __future__ import annotations

from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from msmlff.data.collate import collate
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors_device import neighbor_list_for
from msmlff.models.base import ForceField


class MSMLFFCalculator(Calculator):
    """Energy, forces, stress (periodic cells) and atomic energies of a model, in ASE's units and signs.

    Args:
        model: a force field; it is put into evaluation mode and evaluated where its parameters are.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(self, model: ForceField, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model.eval()
        self._device = next(model.parameters(), torch.zeros(())).device

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] | None = None,
    ) -> None:
        """Fill ``results``; stress only where the cell is periodic in all directions."""
        super().calculate(atoms, properties or ["energy"], system_changes or all_changes)
        assert self.atoms is not None  # set by ASE just before
        frame = Configuration(
            self.atoms.numbers,
            self.atoms.positions,
            self.atoms.cell.array,
            self.atoms.pbc,
            source="the given atoms",
        )
        neighbors = neighbor_list_for(self._device, frame.positions, frame.cell, frame.pbc, self.model.cutoff)
        batch = collate([frame], [neighbors], self.model.atomic_numbers).to(self._device)
        periodic = bool(frame.pbc.all())
        prediction = self.model(batch, forces=True, stress=periodic)
        energy = float(prediction.energy[0])
        self.results = {"energy": energy, "free_energy": energy}
        self.results["energies"] = prediction.atomic_energies.detach().cpu().numpy()
        if prediction.forces is not None:
            self.results["forces"] = prediction.forces.detach().cpu().numpy()
        if prediction.stress is not None:
            stress = prediction.stress[0].detach().cpu().numpy()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
