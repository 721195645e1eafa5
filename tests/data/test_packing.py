"""Batches within budget: every frame once, in an order that seed and epoch alone decide."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

from msmlff.data.packing import BatchBudget, BudgetBatchSampler
from msmlff.errors import InputError


def _random_case(seed: int):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 200))
    atoms = rng.integers(1, 130, n)
    edges = atoms * rng.integers(0, 90, n)
    budget = BatchBudget(
        frames=int(rng.integers(1, 12)) if rng.random() < 0.7 else None,
        atoms=int(rng.integers(60, 600)) if rng.random() < 0.7 else None,
        edges=int(rng.integers(500, 40000)),
    )
    return atoms, edges, budget


@pytest.mark.parametrize("seed", range(40))
def test_each_frame_once_and_no_batch_over_budget(seed: int) -> None:
    atoms, edges, budget = _random_case(seed)
    shuffle = bool(seed % 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = BudgetBatchSampler(atoms, edges, budget, shuffle, seed)
    sampler.set_epoch(seed)
    batches = list(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(len(atoms)))
    assert len(batches) == len(sampler)
    for batch in batches:
        if len(batch) == 1:
            continue  # a frame over budget is alone
        assert len(batch) <= (budget.frames or 10**9)
        assert atoms[batch].sum() <= (budget.atoms or 10**9)
        assert edges[batch].sum() <= budget.edges
    # The packing is not wasteful: two batches in a row never fit into one.
    for a, b in itertools.pairwise(batches):
        first = b[:1]
        together = [len(a) + 1, atoms[a].sum() + atoms[first].sum(), edges[a].sum() + edges[first].sum()]
        limits = [budget.frames or 10**9, budget.atoms or 10**9, budget.edges]
        assert any(t > m for t, m in zip(together, limits, strict=True))
    if not shuffle:
        assert [i for batch in batches for i in batch] == list(range(len(atoms)))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    atoms, edges = np.full(50, 10), np.full(50, 100)

    def batches(seed: int, epoch: int, history: tuple[int, ...] = ()) -> list[list[int]]:
        sampler = BudgetBatchSampler(atoms, edges, BatchBudget(frames=4), True, seed)
        for before in history:
            sampler.set_epoch(before)
            list(sampler)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(1, 3) == batches(1, 3, history=(0, 7, 2))
    assert batches(1, 3) != batches(1, 4)
    assert batches(1, 3) != batches(2, 3)
    assert batches(1, 2) != batches(2, 1)


def test_an_interrupted_epoch_continues_where_it_stopped() -> None:
    sampler = BudgetBatchSampler(np.ones(20), np.ones(20), BatchBudget(frames=3), True, 5)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.start = 4
    assert list(sampler) == whole[4:]
    assert len(sampler) == len(whole) - 4
    sampler.set_epoch(3)
    assert len(sampler) == len(whole)


def test_a_frame_over_budget_is_alone_and_reported() -> None:
    atoms, edges = [10, 500, 10], [20, 9000, 20]
    with pytest.warns(UserWarning, match="frame 1 has 500 atoms and 9000 edges"):
        sampler = BudgetBatchSampler(atoms, edges, BatchBudget(edges=100), False)
    assert list(sampler) == [[0], [1], [2]]


def test_empty_budgets_are_refused() -> None:
    with pytest.raises(InputError, match="set frames, atoms or edges"):
        BatchBudget()
    with pytest.raises(InputError, match="atoms=0"):
        BatchBudget(atoms=0)
