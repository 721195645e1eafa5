"""From the configuration of a selection to the chosen frames; imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from threadpoolctl import ThreadpoolController

from msmlff.app.config import build
from msmlff.data.store import FrameStore
from msmlff.distill.budget import Budget
from msmlff.distill.descriptors import Descriptor
from msmlff.distill.pool_map import PoolMap
from msmlff.distill.run import distill, write_distillation
from msmlff.distill.selection import Selection
from msmlff.distill.selector import Rules, Selector
from msmlff.errors import InputError

# Of a pool up to which one thread does the linear algebra. Products are small then, and it takes longer to
# wake the other threads than they save: several times as long beside other work.
FEW_ATOMS = 200_000
KEYS = ["budget", "unit", "cost_exponent", "selection_seed", "reference", "must", "forbidden", "quotas"]


@dataclass(frozen=True)
class Choice:
    """What is chosen, whatever the method; the keys of conf/distill.yaml and of conf/data/.

    Attributes:
        budget: see ``Budget``.
        seed: of the selection.
        reference: frames that are chosen already: their numbers, or the path of a selection.json.
        rules: must, forbidden and quotas; a group in ``quotas`` may be a number (1.4 for the group "1.40").
    """

    budget: Budget
    seed: int
    reference: str | Sequence[int] | None
    rules: Rules

    @staticmethod
    def of(config: DictConfig) -> Choice:
        """From a node with the keys; those that are absent have the defaults of conf/distill.yaml.

        Raises:
            InputError: a budget that ``Budget`` refuses.
        """
        node: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, KEYS), resolve=True)
        return Choice(
            budget=Budget(node["budget"], node.get("unit", "frames"), node.get("cost_exponent", 3.0)),
            seed=node["selection_seed"],
            reference=node.get("reference"),
            rules=Rules(node.get("must") or (), node.get("forbidden") or (), node.get("quotas")),
        )


def build_descriptor(choice: DictConfig, device: str) -> Descriptor:
    """The descriptor of a configuration; ``device: auto`` becomes ``device``, which may be auto as well: the
    descriptor looks for a GPU when there is something to compute."""
    settings = OmegaConf.to_container(choice, resolve=True)
    assert isinstance(settings, dict)
    if settings.get("device") == "auto":
        settings["device"] = device
    descriptor: Descriptor = build(settings, "descriptor")
    return descriptor


def descriptor_of(config: DictConfig, device: str) -> Descriptor | None:
    """``build_descriptor`` of the group descriptor; None for ~descriptor."""
    choice = config.get("descriptor")
    return None if choice is None else build_descriptor(choice, device)


def choose(
    pool: FrameStore,
    selector: Selector,
    descriptor: Descriptor | None,
    choice: Choice,
    folder: Path,
    console: Console,
    on_map: Callable[[Selection, PoolMap], None] | None = None,
) -> tuple[Selection, PoolMap | None]:
    """Distil the pool and write selection.json, pool_map.npz and selected.extxyz into ``folder``; ``on_map``
    is called as by ``distill``."""
    rules = Rules(choice.rules.must, choice.rules.forbidden, _named_groups(choice.rules.quotas, pool.group))
    reference = _reference(choice.reference, pool)
    # before the spinner: where the features must be computed they have a bar of their own
    features = None if descriptor is None else descriptor(pool)
    threads = 1 if pool.num_atoms.sum() <= FEW_ATOMS else None
    blas = ThreadpoolController().select(internal_api="openblas")
    with console.status("choosing frames"), blas.limit(limits=threads):
        selection, chart = distill(
            pool,
            selector,
            choice.budget,
            features=features,
            seed=choice.seed,
            reference=reference,
            rules=rules,
            on_map=on_map,
        )
    write_distillation(folder, pool, selection, chart)
    return selection, chart


def _reference(reference: str | Sequence[int] | None, pool: FrameStore) -> Selection | Sequence[int] | None:
    if not isinstance(reference, str):
        return reference
    try:
        selection = Selection.load(reference)
    except InputError as error:
        raise InputError(
            f"reference={reference}: {error}; give a selection.json or a list of frame numbers"
        ) from None
    try:
        selection.check_pool(pool.hash, len(pool))
    except InputError as error:
        raise InputError(f"reference={reference}: {error}") from None
    return selection


def _named_groups(quotas: Any, groups: np.ndarray) -> Any:
    """Quotas by the groups' names: YAML and the command line make numbers of names like 1.40."""
    if not isinstance(quotas, Mapping):
        return quotas
    names = set(groups.tolist())
    return {_name(key, names): number for key, number in quotas.items()}


def _name(key: Any, names: set[str]) -> str:
    if str(key) in names or isinstance(key, str):
        return str(key)
    return next((name for name in sorted(names) if _number(name) == key), str(key))


def _number(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None
