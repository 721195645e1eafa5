"""Neighbour lists on the device of the positions: nvalchemi-toolkit-ops if installed, else vesin."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msmlff.data.neighbors import Neighbors, checked_geometry, neighbor_list, vesin_pairs

_FIRST_GUESS = 64
"""Neighbours per atom that room is made for at first; where they are more, the search is repeated."""


@cache
def device_search_available() -> bool:
    """Whether nvalchemi-toolkit-ops is installed (the extra ``cuda``)."""
    return find_spec("nvalchemiops") is not None


def neighbor_list_for(
    device: torch.device,
    positions: np.ndarray,
    cell: np.ndarray | None,
    pbc: np.ndarray | bool,
    cutoff: float,
) -> Neighbors:
    """``neighbor_list``, searched on ``device`` if that is a GPU and nvalchemi-toolkit-ops is installed."""
    if device.type != "cuda" or not device_search_available():
        return neighbor_list(positions, cell, pbc, cutoff)
    box = None if cell is None else torch.from_numpy(cell).to(device)
    found = device_neighbor_list(torch.from_numpy(positions).to(device), box, pbc, cutoff)
    sender, receiver, shift = (t.cpu().numpy() for t in found)
    return Neighbors(sender, receiver, shift)


def device_neighbor_list(
    positions: Tensor, cell: Tensor | None, pbc: np.ndarray | bool, cutoff: float, force_cpu: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """All directed pairs closer than ``cutoff``, as ``neighbor_list`` orders them, on the positions' device.

    Lengths are computed in the type of ``positions``; edges of equal length may come in another order than on
    the CPU.

    Args:
        positions: [atoms, 3] Å.
        cell: [3, 3] Å, rows are lattice vectors; None where nothing is periodic.
        pbc: [3] bool, or one bool.
        cutoff: Å.
        force_cpu: search with vesin whatever is installed.

    Returns:
        sender [edges] long, receiver [edges] long (ascending), shift [edges, 3] of the type of ``positions``.

    Raises:
        InputError: as ``neighbor_list``.
    """
    host = positions.detach().cpu().numpy()
    box = None if cell is None else cell.detach().cpu().numpy()
    if force_cpu or not device_search_available():
        found = neighbor_list(host, box, pbc, cutoff)
        sender, receiver = (torch.from_numpy(a).to(positions.device) for a in (found.sender, found.receiver))
        return sender, receiver, torch.from_numpy(found.shift).to(positions)
    _, box, periodic = checked_geometry(host, box, pbc, cutoff)
    return _search(positions.detach(), _invertible(box, periodic), periodic, cutoff)


def free_pairs(positions: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """All directed pairs closer than ``cutoff`` where nothing is periodic, in any order: for those who go on
    with few of them.

    Args:
        positions: [atoms, 3] Å.
        cutoff: Å.

    Returns:
        sender and receiver [pairs] long, length [pairs] Å, on the device of the positions.

    Raises:
        InputError: positions that are not finite, cutoff <= 0, atoms spread too far in one or two directions.
    """
    if positions.is_cuda and device_search_available():
        sender, receiver, _ = device_neighbor_list(positions, None, False, cutoff)
        return sender, receiver, (positions[receiver] - positions[sender]).norm(dim=1)
    host, cell, periodic = checked_geometry(positions.detach().cpu().numpy(), None, False, cutoff)
    found = vesin_pairs(host, cell, periodic, cutoff, "ijd", threads=torch.get_num_threads())
    sender, receiver = (torch.from_numpy(a.astype(np.int64)).to(positions.device) for a in found[:2])
    return sender, receiver, torch.from_numpy(found[2]).to(positions.device)


def _search(
    positions: Tensor, cell: np.ndarray, periodic: np.ndarray, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    from nvalchemiops.torch.neighbors import neighbor_list as search

    geometry: dict[str, Any] = {}
    box = torch.from_numpy(cell).to(positions)
    if periodic.any():
        geometry = {"cell": box, "pbc": torch.tensor(periodic, device=positions.device)}
    room = _FIRST_GUESS
    while True:
        matrix, count, *rest = search(positions, float(cutoff), max_neighbors=room, **geometry)
        most = int(count.max())
        if most <= room:
            break
        room = most
    used = torch.arange(matrix.shape[1], device=matrix.device) < count[:, None]
    receiver = torch.repeat_interleave(torch.arange(len(positions), device=matrix.device), count.long())
    sender = matrix[used].long()
    # The row's atom is the first of the pair: vector = x[column] - x[row] + S @ cell. Turned round, the row
    # receives and the shift changes its sign.
    shift = (-rest[0][used]).to(positions) if rest else positions.new_zeros(len(sender), 3)
    length = (positions[receiver] - positions[sender] + shift @ box).norm(dim=1)
    order = torch.argsort(length, stable=True)
    order = order[torch.argsort(receiver[order], stable=True)]
    return sender[order], receiver[order], shift[order]


def _invertible(cell: np.ndarray, periodic: np.ndarray) -> np.ndarray:
    """The cell with unit vectors in place of absent ones, at right angles to the periodic directions."""
    filled = np.array(cell, dtype=np.float64)
    absent = ~periodic & (np.abs(filled).sum(axis=1) == 0)
    if absent.any():
        filled[absent] = (
            np.linalg.svd(filled[~absent])[2][(~absent).sum() :] if (~absent).any() else np.eye(3)
        )
    return filled
