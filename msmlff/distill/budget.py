"""How much may be chosen: frames, atoms or label cost; and how a budget is shared among groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from msmlff.errors import InputError

UNITS = ("frames", "atoms", "cost")
REFERENCE_ATOMS = 100  # a frame of so many atoms costs 1


@dataclass(frozen=True)
class Budget:
    """What a selection may cost.

    Attributes:
        amount: frames, atoms in all, or label cost in all; None: whatever there is.
        unit: "frames", "atoms" or "cost".
        exponent: of the label cost: a frame of n atoms costs (n / 100)^exponent, so that one of 100 atoms
            costs 1 (3: diagonalisation in plane-wave DFT; 1: linear-scaling methods).

    Raises:
        InputError: an amount that is not positive, a fraction of a frame, an unknown unit.
    """

    amount: float | None
    unit: str = "frames"
    exponent: float = 3.0

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(f"unit={self.unit!r} is unknown: write one of {', '.join(UNITS)}")
        if not (isinstance(self.exponent, int | float) and math.isfinite(self.exponent)):
            raise InputError(f"cost_exponent={self.exponent!r}: write a number, for instance 3")
        if self.amount is None:
            return
        whole = isinstance(self.amount, int | np.integer) and not isinstance(self.amount, bool)
        if self.unit != "cost" and not whole:
            raise InputError(
                f"budget={self.amount!r} is not a number of {self.unit}: write a whole number, or null"
            )
        if isinstance(self.amount, bool) or not isinstance(self.amount, int | float | np.number):
            raise InputError(f"budget={self.amount!r} is not a number: write one, or null for all")
        if not (math.isfinite(self.amount) and self.amount > 0):
            raise InputError(
                f"budget={self.amount}: write a number of {self.unit} from 1 upwards, or null for all"
                if self.unit != "cost"
                else f"budget={self.amount}: write a cost above 0, or null for all"
            )

    def costs(self, num_atoms: np.ndarray) -> np.ndarray:
        """[frames] float64, what each frame takes from the amount. num_atoms: [frames]."""
        if self.unit == "frames":
            return np.ones(len(num_atoms))
        atoms = np.asarray(num_atoms, dtype=np.float64)
        return atoms if self.unit == "atoms" else (atoms / REFERENCE_ATOMS) ** self.exponent


def shares(
    quotas: str | Mapping[str, int], groups: np.ndarray, open_: np.ndarray, taken: np.ndarray, total: int
) -> dict[str, int]:
    """How many more frames each group gives.

    Args:
        quotas: "equal": as equal as the groups' sizes allow; "proportional": as the groups' shares of the
            pool (Sainte-Laguë); or a number for each group, frames of ``taken`` included.
        groups: [frames] name of each frame's group.
        open_: ids that may be chosen.
        taken: ids that are chosen already and count.
        total: frames still to choose, at most ``len(open_)``.

    Raises:
        InputError: unknown rule or group, more than a group has, or numbers that do not add up.
    """
    names, index = np.unique(groups, return_inverse=True)
    room = np.bincount(index[open_], minlength=len(names))
    have = np.bincount(index[taken], minlength=len(names))
    if isinstance(quotas, Mapping):
        more = _given(quotas, names, room, have, total)
    elif quotas == "equal":
        more = _fill(room, have, np.ones(len(names)), total)
    elif quotas == "proportional":
        more = _fill(room, have, np.bincount(index, minlength=len(names)).astype(np.float64), total)
    else:
        raise InputError(f"quotas={quotas!r}: write equal, proportional, or a number for each group")
    return {str(name): int(n) for name, n in zip(names, more, strict=True)}


def _given(
    quotas: Mapping[str, int], names: np.ndarray, room: np.ndarray, have: np.ndarray, total: int
) -> np.ndarray:
    wanted = {str(name): number for name, number in quotas.items()}
    unknown = sorted(set(wanted) - set(names.tolist()))
    if unknown:
        raise InputError(f"quotas: the pool has no group '{unknown[0]}'; its groups are {', '.join(names)}")
    more = np.zeros(len(names), dtype=np.int64)
    for i, name in enumerate(names.tolist()):
        number = wanted.get(name, 0)
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise InputError(f"quotas.{name}={number!r}: write a whole number of frames")
        more[i] = max(0, number - have[i])
        if more[i] > room[i]:
            raise InputError(
                f"quotas.{name}={number}: the group has {room[i] + have[i]} frames that can be chosen"
            )
    if more.sum() != total:
        raise InputError(
            f"quotas ask for {more.sum()} frames beside those of must, the budget leaves {total}: "
            "make them equal"
        )
    return more


def _fill(room: np.ndarray, have: np.ndarray, weight: np.ndarray, total: int) -> np.ndarray:
    """One frame at a time to the group that lags most behind its share (Sainte-Laguë); full groups give no
    more."""
    more = np.zeros(len(room), dtype=np.int64)
    for _ in range(total):
        lag = np.where(more < room, (have + more + 0.5) / weight, np.inf)
        more[int(np.argmin(lag))] += 1
    return more
