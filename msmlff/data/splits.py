"""Splits of a pool that never part neighbours in time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from msmlff.errors import InputError


def split_by_group(
    groups: Sequence[str] | np.ndarray, fractions: Mapping[str, float], seed: int = 0
) -> dict[str, np.ndarray]:
    """Whole groups (state points, trajectories) go to one part each.

    Groups are handed out in random order, each to the part that lacks the most frames of its share.

    Args:
        groups: [frames] group of each frame.
        fractions: share of the frames for each part; they add up to 1.
        seed: of the order in which groups are handed out.

    Returns:
        For each part the ascending ids of its frames: [frames of the part] long.

    Raises:
        InputError: fractions that do not add up to 1, or fewer groups than parts that want frames.
    """
    _check_fractions(fractions)
    groups = np.asarray(groups)
    names, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    wanted = {part: share * len(groups) for part, share in fractions.items() if share > 0}
    if len(names) < len(wanted):
        raise InputError(
            f"{len(names)} groups cannot be split into {len(wanted)} parts ({', '.join(wanted)}): name "
            "another group key, or split in blocks"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    given: dict[str, list[int]] = {part: [] for part in fractions}
    missing = dict(wanted)
    for position, group in enumerate(order):
        empty = [part for part in wanted if not given[part]]
        candidates = empty if len(order) - position <= len(empty) else list(wanted)
        part = max(candidates, key=lambda p: missing[p])
        given[part].append(int(group))
        missing[part] -= sizes[group]
    return {part: np.flatnonzero(np.isin(member, chosen)) for part, chosen in given.items()}


def split_in_blocks(
    groups: Sequence[str] | np.ndarray, fractions: Mapping[str, float], gap: int = 0
) -> dict[str, np.ndarray]:
    """Within every group, the parts are consecutive blocks in file order, in the order of ``fractions``.

    The right split where every state point must occur in every part, and where frames have no group at all
    (then the whole set is one group). Only frames at the seams are near in time; ``gap`` drops them.

    Args:
        groups: [frames] group of each frame.
        fractions: share of each part; they add up to 1.
        gap: frames dropped at the start of each block but the first.

    Returns:
        For each part the ascending ids of its frames: [frames of the part] long. A warning names the groups
        that are too small to give a part any.

    Raises:
        InputError: fractions that do not add up to 1, or a part that gets no frame.
    """
    _check_fractions(fractions)
    groups = np.asarray(groups)
    parts: dict[str, list[np.ndarray]] = {part: [] for part in fractions}
    lacking: dict[str, list[str]] = {part: [] for part in fractions}
    edges = np.concatenate([[0], np.cumsum(list(fractions.values()))])
    for name in np.unique(groups):
        members = np.flatnonzero(groups == name)
        seams = np.round(edges * len(members)).astype(int)
        for part, start, stop in zip(fractions, seams[:-1], seams[1:], strict=True):
            first = start + gap if start > 0 else start
            parts[part].append(members[first:stop])
            if first >= stop and fractions[part] > 0:
                lacking[part].append(f"{name or 'the frames without a group'} ({len(members)})")
    result = {part: np.sort(np.concatenate(ids)) for part, ids in parts.items()}
    starved = [part for part, ids in result.items() if len(ids) == 0 and fractions[part] > 0]
    if starved:
        raise InputError(
            f"the parts {', '.join(starved)} get no frame out of {len(groups)}: raise their fractions or "
            "lower the gap"
        )
    for part, names in lacking.items():
        if names:
            warnings.warn(
                f"{part} has no frame of {len(names)} of the {len(np.unique(groups))} groups, which are too "
                f"small to be cut: {', '.join(names[:5])}{' ..' if len(names) > 5 else ''}; raise "
                f"fractions.{part}, lower the gap, or split by groups",
                stacklevel=2,
            )
    return result


def shared_groups(parts: Mapping[str, Sequence[str] | np.ndarray]) -> dict[str, list[str]]:
    """Groups that occur in more than one part, with the parts they occur in."""
    where: dict[str, list[str]] = {}
    for part, groups in parts.items():
        for name in np.unique(np.asarray(groups)):
            where.setdefault(str(name), []).append(part)
    return {name: found for name, found in where.items() if len(found) > 1}


def _check_fractions(fractions: Mapping[str, float]) -> None:
    values = list(fractions.values())
    if any(v < 0 for v in values) or abs(sum(values) - 1) > 1e-6:
        raise InputError(f"split fractions {dict(fractions)} must not be negative and must add up to 1")
