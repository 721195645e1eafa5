"""From a pool and a budget to the chosen frames: what training and ``msmlff distill`` both call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from msmlff.data.configuration import Configuration
from msmlff.data.formats import write_frames
from msmlff.data.store import FrameStore
from msmlff.distill.budget import Budget
from msmlff.distill.coverage import coverage
from msmlff.distill.cpd import CPD
from msmlff.distill.features import Features
from msmlff.distill.pool_map import PoolMap, pool_map
from msmlff.distill.selection import Selection
from msmlff.distill.selector import Rules, Selector
from msmlff.errors import InputError


def distill(
    pool: FrameStore,
    selector: Selector,
    budget: int | Budget | None,
    *,
    features: Features | None,
    seed: int,
    reference: Selection | Sequence[int] | None = None,
    rules: Rules | None = None,
    on_map: Callable[[Selection, PoolMap], None] | None = None,
) -> tuple[Selection, PoolMap | None]:
    """Choose frames of a pool and say what the choice covers. Labels are read only by selectors that need
    them.

    Args:
        pool: the frames.
        selector: the method.
        budget: frames to choose, or a Budget in atoms or label cost; None for all.
        features: of the frames, as a ``Descriptor`` gives them; None for selectors that use no features, and
            then there is no map and no coverage.
        seed: of the selection.
        reference: frames that are chosen already.
        rules: frames that must or must not be chosen, quotas of the groups.
        on_map: called with the choice and its map, before its coverage is computed.

    Raises:
        InputError: what ``Selector.select`` raises, or a selector without the features it needs.
    """
    if features is None and selector.uses_features:
        raise InputError(f"{type(selector).__name__} needs a descriptor: write descriptor=untrained_mace")
    selection = selector.select(
        Features.blank(pool.num_atoms, pool.hash) if features is None else features,
        budget,
        reference=reference,
        frames=pool,
        groups=pool.group,
        rules=rules,
        seed=seed,
    )
    if features is None:
        return selection, None
    chart = pool_map(features, selection, pool.group, selector if isinstance(selector, CPD) else None)
    if on_map is not None:
        on_map(selection, chart)
    covered = coverage(features, selection, pool.group, labels=pool)
    return replace(selection, record=selection.record | {"coverage": covered}), chart


def write_distillation(
    directory: str | Path, pool: FrameStore, selection: Selection, chart: PoolMap | None
) -> dict[str, Path]:
    """Write ``selection.json``, ``pool_map.npz`` and ``selected.extxyz`` (the chosen frames in order,
    with the number of the frame in the pool as ``frame_id`` and the labels they have).

    Returns:
        The paths, by the names "selection", "pool_map" (if there is a map) and "frames".

    Raises:
        InputError: the selection is of another pool.
    """
    selection.check_pool(pool.hash, len(pool))
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = {"selection": directory / "selection.json", "frames": directory / "selected.extxyz"}
    selection.save(paths["selection"])
    if chart is not None:
        paths["pool_map"] = directory / "pool_map.npz"
        chart.save(paths["pool_map"])
    write_frames(paths["frames"], _chosen(pool, selection))
    return paths


def _chosen(pool: FrameStore, selection: Selection) -> Iterator[Configuration]:
    for i in selection.ids.tolist():
        frame = pool[i]
        yield replace(frame, info={**frame.info, "frame_id": i})
