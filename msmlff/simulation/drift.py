"""Motion of a replica as a whole: taken out of the velocities, and out of the degrees of freedom."""

from __future__ import annotations

import torch
from torch import Tensor

from msmlff.errors import InputError
from msmlff.simulation.system import System


def remove_translation(system: System) -> None:
    """Let the centre of mass of each replica rest."""
    mass = system.total(system.masses)
    mean = system.total(system.masses * system.velocities) / mass
    system.velocities = system.velocities - mean[system.frame]


def remove_rotation(system: System, chosen: Tensor) -> None:
    """Take the rotation about the centre of mass out of the ``chosen`` [replicas] bool.

    omega = I^+ L with the inertia tensor's pseudo-inverse: a linear molecule does not turn about its axis.
    """
    if not bool(chosen.any()):
        return
    away = _from_centre(system)
    momentum = system.total(torch.linalg.cross(away, system.masses * system.velocities))
    inverse = torch.linalg.pinv(inertia(system), rtol=1e-9, hermitian=True)
    omega = (inverse @ momentum.unsqueeze(2)).squeeze(2) * chosen.unsqueeze(1)
    system.velocities = system.velocities - torch.linalg.cross(omega[system.frame], away)


def inertia(system: System) -> Tensor:
    """[replicas, 3, 3] amu Å² about the centre of mass."""
    away = _from_centre(system)
    outer = (system.masses * away).unsqueeze(2) * away.unsqueeze(1)
    moments = system.total(outer.flatten(1)).view(-1, 3, 3)
    trace = moments.diagonal(dim1=1, dim2=2).sum(dim=1)
    return trace.view(-1, 1, 1) * torch.eye(3, dtype=moments.dtype, device=moments.device) - moments


def free_rotors(system: System) -> Tensor:
    """[replicas] bool: nothing is periodic, so that the angular momentum is conserved."""
    return torch.tensor([not f.pbc.any() for f in system.frames], device=system.frame.device)


def degrees_of_freedom(system: System) -> Tensor:
    """[replicas] with the total momentum and, of free molecules, the angular momentum fixed.

    Raises:
        InputError: nothing is left, as of a single atom.
    """
    rotations = torch.linalg.matrix_rank(inertia(system), rtol=1e-9, hermitian=True)
    dof = system.dof - 3.0 - rotations * free_rotors(system)
    if bool((dof < 1).any()):
        frame = system.frames[int((dof < 1).nonzero()[0, 0])]
        raise InputError(
            f"{frame.source or 'a frame'}: {len(frame)} atom(s) have no motion left once that of the whole "
            "is taken out; write remove_drift=false"
        )
    return dof


def _from_centre(system: System) -> Tensor:
    centre = system.total(system.masses * system.positions) / system.total(system.masses)
    return system.positions - centre[system.frame]
