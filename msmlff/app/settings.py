"""What of a configuration decides a run's numbers: a resume must not change it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from msmlff.errors import InputError

# the rest: where and how it runs, what it shows. A pool may move: its content is checked by its hash.
EDITABLE = (
    "tags", "logger", "report", "gate", "device", "threads", "ops", "pool.path",
    "training.workers", "training.log_every", "training.checkpoint_seconds",
)  # fmt: skip
FREE = ("choices", "overrides", *EDITABLE)


def deciding(config: DictConfig) -> dict[str, Any]:
    """{"model.channels": 32, ...}: every key that decides the result, with its value."""
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    flat = _flat(content)
    return {k: v for k, v in flat.items() if not any(f"{k}.".startswith(f"{free}.") for free in FREE)}


def _flat(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def check_unchanged(config: DictConfig, earlier: Mapping[str, Any], where: str) -> None:
    """Compare a configuration with the one that a checkpoint was written under.

    Raises:
        InputError: they differ in what decides the result; the message names the keys.
    """
    now = deciding(config)
    absent = object()
    changed = [k for k in {**earlier, **now} if now.get(k, absent) != earlier.get(k, absent)]
    if changed:
        lines = [f"{k} is {now.get(k, 'absent')} there and was {earlier.get(k, 'absent')}" for k in changed]
        raise InputError(
            f"{where} was edited where a resume cannot follow: {'; '.join(lines)}. Put that back, or start a "
            f"new run. Free to change: {', '.join(EDITABLE)}"
        )
