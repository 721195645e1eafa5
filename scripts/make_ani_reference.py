"""Writes tests/models/reference/ani_*.npz and zbl.npz: what torchani gives in float64.

Needs an environment of its own, for torchani brings much that is not needed here (any folder will do):

    python -m venv ANI && ANI/bin/pip install torch==2.13.0 numpy ase torchani==2.9.0
    ANI/bin/python scripts/make_ani_reference.py

ani_NAME.npz holds `settings` (JSON: keys of our ANIArchitecture, and `numbers`, the species), for frame i
`numbers_i`, `positions_i` (Å), `cell_i` (Å), `pbc_i`, `aev_i`, and, where there are networks, their weights
(`SYMBOL.layers.0.weight` ..), `energy_i` (eV) and `forces_i` (eV/Å). zbl.npz holds `pairs`, `lengths` (Å) and
`energies` (eV) [pairs, lengths] of the repulsion without a cutoff.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchani
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import chemical_symbols

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "models" / "reference"
GRID = {"start": 0.8, "radial_eta": 19.7, "angular_eta": 12.5, "zeta": 14.1}
CASES: dict[str, dict[str, Any]] = {
    "ani_2x": {
        "numbers": [1, 6, 7, 8], "cutoff": 5.1, "angular_cutoff": 3.5, "radial_shifts": 16,
        "angular_shifts": 8, "angles": 4, **GRID,
    },
    "ani_celu": {
        "numbers": [1, 6, 7, 8], "cutoff": 4.8, "angular_cutoff": 3.6, "radial_shifts": 5,
        "angular_shifts": 3, "angles": 3, **GRID, "hidden": [10, 7], "activation": "celu",
    },
    "ani_gelu": {
        "numbers": [6, 8], "cutoff": 4.6, "angular_cutoff": 4.1, "radial_shifts": 6,
        "angular_shifts": 2, "angles": 5, **GRID, "hidden": [9, 8, 6], "activation": "gelu",
    },
}  # fmt: skip


def frames(numbers: list[int]) -> list[Atoms]:
    """A distorted molecule and a distorted, sheared cell of 8 atoms, smaller than the cutoffs."""
    molecules = molecule("CH3CONH2") if 7 in numbers else molecule("CO2")  # the second one is linear
    crystal = bulk("CO", "rocksalt", a=4.1, cubic=True)
    crystal.set_cell(crystal.cell.array + np.array([[0, 0.3, 0], [0, 0, 0.1], [0.2, 0, 0]]), scale_atoms=True)
    crystal.rattle(0.1, seed=0)
    if 7 in numbers:
        molecules.rattle(0.08, seed=0)
    else:
        molecules.positions[0] *= 1.1
        molecules.positions[1, 2] += 0.1
    return [molecules, crystal]


def computer(settings: dict[str, Any]) -> torchani.aev.AEVComputer:
    """torchani's functions, their constants in float64."""
    radial = torchani.aev.ANIRadial.cover_linearly(
        settings["start"], settings["cutoff"], settings["radial_eta"], settings["radial_shifts"]
    )
    angular = torchani.aev.ANIAngular.cover_linearly(
        settings["start"],
        settings["angular_cutoff"],
        settings["angular_eta"],
        settings["zeta"],
        settings["angular_shifts"],
        settings["angles"],
    )

    def grid(cutoff: float, count: int) -> torch.Tensor:
        step = (cutoff - settings["start"]) / count
        return settings["start"] + step * torch.arange(count, dtype=torch.float64)

    radial.eta, radial.shifts = _double(settings["radial_eta"]), grid(settings["cutoff"], len(radial.shifts))
    angular.eta, angular.zeta = _double(settings["angular_eta"]), _double(settings["zeta"])
    angular.shifts = grid(settings["angular_cutoff"], len(angular.shifts))
    angles = settings["angles"]
    angular.sections = (torch.arange(angles, dtype=torch.float64) + 0.5) * (math.pi / angles)
    return torchani.aev.AEVComputer(radial, angular, num_species=len(settings["numbers"]))


def _double(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def networks(settings: dict[str, Any], inputs: int) -> torchani.nn.ANINetworks:
    """Random networks in float64."""
    sizes = [inputs, *settings["hidden"], 1]
    symbols = [chemical_symbols[z] for z in settings["numbers"]]
    nets = {s: torchani.nn.AtomicNetwork(sizes, settings["activation"], bias=True) for s in symbols}
    for parameter in (p for net in nets.values() for p in net.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    return torchani.nn.ANINetworks(nets).double()


def write(name: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    functions = computer(settings)
    nets = networks(settings, functions.out_dim) if "hidden" in settings else None
    content: dict[str, Any] = {"settings": json.dumps(settings)}
    if nets is not None:
        content |= {key.removeprefix("atomics."): value.numpy() for key, value in nets.state_dict().items()}
    for i, atoms in enumerate(frames(settings["numbers"])):
        species = torch.tensor([[settings["numbers"].index(z) for z in atoms.numbers]])
        positions = torch.tensor(atoms.positions[None], requires_grad=True)
        periodic = bool(atoms.pbc.all())
        cell = torch.tensor(atoms.cell.array) if periodic else None
        aev = functions(species, positions, cell, torch.ones(3, dtype=torch.bool) if periodic else None)
        content |= {f"numbers_{i}": atoms.numbers, f"positions_{i}": atoms.positions, f"pbc_{i}": atoms.pbc}
        content |= {f"cell_{i}": atoms.cell.array, f"aev_{i}": aev[0].detach().numpy()}
        if nets is not None:
            energy = nets(species, aev).sum()
            (gradient,) = torch.autograd.grad(energy, positions)
            content |= {f"energy_{i}": energy.detach().numpy(), f"forces_{i}": -gradient[0].numpy()}
    np.savez_compressed(FOLDER / f"{name}.npz", **content)


def write_repulsion() -> None:
    pairs, lengths = [[1, 1], [1, 8], [6, 28], [13, 13]], np.linspace(0.2, 1.2, 6)
    energies = []
    for pair in pairs:
        symbols = sorted({chemical_symbols[z] for z in pair})
        zbl = torchani.potentials.RepulsionZBL(symbols, cutoff=math.inf, cutoff_fn="dummy")
        positions = torch.zeros(len(lengths), 2, 3)
        positions[:, 1, 0] = torch.tensor(lengths)
        energy = zbl(torch.tensor([pair] * len(lengths)), positions)
        energies.append(torchani.units.hartree2ev(energy).double().numpy())
    np.savez_compressed(FOLDER / "zbl.npz", pairs=pairs, lengths=lengths, energies=energies)


if __name__ == "__main__":
    for name, settings in CASES.items():
        write(name, settings)
    write_repulsion()
