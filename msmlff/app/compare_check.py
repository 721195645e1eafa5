"""What a comparison's jobs need, looked at once before they start."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from msmlff.app.choose import build_descriptor
from msmlff.app.compare_jobs import read_pool, seen_frames
from msmlff.app.config import build, typed
from msmlff.app.runtime import pick_device
from msmlff.data.pools import PoolSpec
from msmlff.data.store import FrameStore
from msmlff.distill.budget import Budget
from msmlff.errors import InputError


def check_study(config: DictConfig) -> dict[str, str]:
    """Read the pool and build all that the selectors have in common.

    Returns:
        hashes of the frames, and what decides the descriptor's numbers, files it reads included: a folder
        holds a comparison of these alone.

    Raises:
        InputError: a pool without validation or test frames, budgets or seeds that are none, a share of the
            pool that is none or that gives less than a budget, a learner or descriptor with wrong settings,
            no descriptor, no GPU.
    """
    device = pick_device(config.device)
    _check_numbers(config)
    if config.get("descriptor") is None:
        raise InputError(
            "a comparison needs a descriptor: leave out ~descriptor, or write descriptor=untrained_mace"
        )
    pool = read_pool(typed(PoolSpec, config.pool, "pool"))
    _check_room(config, pool.train)
    build(config.learner, "learner").on(device)
    settings = build_descriptor(config.descriptor, device).settings()
    content = {f"descriptor {key}": str(value) for key, value in settings.items()}
    parts = {"train": pool.train, "val": pool.val, "test": pool.test}
    return content | {f"{part} frames": store.hash for part, store in parts.items() if store is not None}


def _check_numbers(config: DictConfig) -> None:
    budgets: Any = OmegaConf.to_container(config.budgets) if OmegaConf.is_list(config.budgets) else None
    if not budgets or None in budgets or len(set(budgets)) != len(budgets):
        raise InputError(f"budgets={config.budgets}: write a list of different numbers, as [25, 50, 100]")
    for budget in budgets:
        try:
            Budget(budget, str(config.unit), config.cost_exponent)
        except InputError as error:
            raise InputError(f"budgets={config.budgets}: {error}") from None
    seeds: Any = OmegaConf.to_container(config.init_seeds) if OmegaConf.is_list(config.init_seeds) else None
    if not seeds or len(set(seeds)) != len(seeds) or not all(type(s) is int and s >= 0 for s in seeds):
        raise InputError(
            f"init_seeds={config.init_seeds}: write a list of different seeds >= 0, as [1, 2, 3]"
        )
    share = config.subpool
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise InputError(f"subpool={share}: write a share of the pool above 0 and up to 1")


def _check_room(config: DictConfig, pool: FrameStore) -> None:
    """No budget above what a selection seed sees; of atoms and cost, above what it sees on average."""
    unit, share = str(config.unit), float(config.subpool)
    room: float = seen_frames(pool, share)
    if unit != "frames":
        room = share * float(Budget(None, unit, config.cost_exponent).costs(pool.num_atoms).sum())
    if max(config.budgets) > room * (1 + 1e-5):
        most = f"{room:.6g}" if unit == "cost" else f"{int(room)}"
        raise InputError(
            f"budgets={config.budgets}: subpool={share:g} of the pool's {len(pool)} training frames gives "
            f"{most} {unit}: write budgets up to {most}, or a larger subpool"
        )
