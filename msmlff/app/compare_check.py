"""What a comparison's jobs need, looked at once before they start."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from msmlff.app.choose import build_descriptor
from msmlff.app.compare_jobs import read_pool
from msmlff.app.config import build, typed
from msmlff.app.runtime import pick_device
from msmlff.data.pools import PoolSpec
from msmlff.distill.budget import Budget
from msmlff.errors import InputError


def check_study(config: DictConfig) -> dict[str, str]:
    """Read the pool and build all that the selectors have in common.

    Returns:
        hashes of the frames, and what decides the descriptor's numbers, files it reads included: a folder
        holds a comparison of these alone.

    Raises:
        InputError: a pool without validation or test frames, budgets or seeds that are none, a share of the
            pool that is none, a learner or descriptor with wrong settings, no GPU.
    """
    device = pick_device(config.device)
    _check_numbers(config)
    pool = read_pool(typed(PoolSpec, config.pool, "pool"))
    build(config.learner, "learner").on(device)
    content = {}
    if config.descriptor is not None:
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
