"""Reduced products: compiled and numpy's against plain ones, in both precisions; sums that grow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msmlff import native
from msmlff.distill import row_products
from msmlff.distill.row_products import (
    GrowingOthers,
    exponential_sums,
    exponential_sums_and_most,
    exponential_sums_within,
    least_products,
    reduce_runs,
)

SHAPES = ((1, 1, 1), (3, 2, 5), (4, 7, 3), (17, 65, 18), (130, 1030, 9), (700, 70, 66))
RUNS = (None, (0,), (0, 1), (0, 3, 4, 64, 65))


@pytest.fixture(params=["compiled", "numpy"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute; without compiled kernels the first is skipped."""
    native.missing.cache_clear()
    if request.param == "numpy":
        monkeypatch.setitem(native.LIBRARIES, "rows", Path("/nowhere/rows.so"))
    elif row_products._compiled() is None:
        pytest.skip("no compiled kernels")
    native.missing.cache_clear()
    assert (row_products._compiled() is None) == (request.param == "numpy")
    return str(request.param)


@pytest.fixture(autouse=True)
def _forget() -> object:
    yield
    native.missing.cache_clear()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_least_and_exponentials(road: str, kind: type[np.floating], shape: tuple[int, int, int]) -> None:
    n, m, d = shape
    rng = np.random.default_rng(n)
    rows, others = (rng.normal(size=(count, d)).astype(kind) for count in (n, m))
    product = rows.astype(np.float64) @ others.astype(np.float64).T
    close = {"rtol": 30 * np.finfo(kind).eps, "atol": 30 * d * np.finfo(kind).eps}
    np.testing.assert_allclose(least_products(rows, others), product.min(axis=1), **close)
    rows *= kind(0.1)
    product *= 0.1
    for starts in RUNS:
        cuts = np.array([0] if starts is None else [s for s in starts if s < m])
        wanted = np.add.reduceat(np.exp(product), cuts, axis=1).T
        given = None if starts is None else cuts
        sums, most = exponential_sums_and_most(rows, others, given)
        close["rtol"] = 300 * np.finfo(kind).eps
        np.testing.assert_allclose(sums, wanted, **close)
        np.testing.assert_allclose(exponential_sums(rows, others, given), wanted, **close)
        np.testing.assert_allclose(most, np.maximum.reduceat(product, cuts, axis=1).T, **close)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_exponentials_within_runs(road: str, kind: type[np.floating]) -> None:
    rng = np.random.default_rng(0)
    rows, others = (0.1 * rng.normal(size=(170, 30)).astype(kind) for _ in range(2))
    starts = np.array([0, 1, 3, 7, 39, 40, 130])
    run = np.searchsorted(starts, np.arange(170), side="right")
    whole = np.exp(rows.astype(np.float64) @ others.astype(np.float64).T)
    wanted = np.where(run[:, None] == run, whole, 0.0).sum(axis=1)
    found = exponential_sums_within(rows, others, starts)
    assert found.dtype == kind
    np.testing.assert_allclose(found, wanted, rtol=300 * np.finfo(kind).eps)


def test_exponentials_underflow_to_next_to_nothing(road: str) -> None:
    rows, others = np.full((8, 1), -50, np.float32), np.array([[0], [1], [2], [1000]], np.float32)
    sums = exponential_sums(rows, others, np.array([0, 1, 2, 3]))
    np.testing.assert_allclose(sums[:2, 0], [1, np.exp(-50)], rtol=1e-6)
    assert (sums[2:] < 2e-38).all()


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows, others = (rng.normal(size=(count, 40)).astype(np.float32) for count in (1500, 1200))
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append((least_products(rows, others), exponential_sums(0.1 * rows, others)))
    for one, three in zip(*found, strict=True):
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_growing_sums_stop_when_there_is_enough(road: str, kind: type[np.floating]) -> None:
    """Bounds from below on the way, all of it in the end, whatever the steps were."""
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.normal(size=(37, 12)), np.ones((37, 1))], axis=1).astype(kind)
    state = GrowingOthers(13, kind, capacity=20)
    sums, counted = np.zeros(37), np.zeros(37, dtype=np.int64)
    others = np.empty((0, 13), kind)
    for size in (5, 0, 700, 33, 1500):
        more = np.concatenate([0.1 * rng.normal(size=(size, 12)), -np.ones((size, 1))], axis=1)
        state.add(more.astype(kind))
        others = np.concatenate([others, more.astype(kind)])
        np.testing.assert_array_equal(state.others, others)
        terms = np.exp(rows.astype(np.float64) @ others.astype(np.float64).T)
        enough = rng.uniform(0, 1.2, size=37) * terms.sum(axis=1)
        before = counted.copy()
        state.count_until(rows, sums, counted, enough)
        assert (counted >= before).all()
        assert ((sums > enough) | (counted == len(others))).all()
        partial = [terms[i, : counted[i]].sum() for i in range(37)]
        np.testing.assert_allclose(sums, partial, rtol=1e-5)
        # a range of each row's own
        first, last = np.sort(rng.integers(0, len(others) + 1, size=(2, 37)), axis=0)
        own, at = np.zeros(37), first.copy()
        state.count_until(rows, own, at, np.full(37, np.inf), last)
        np.testing.assert_allclose(own, [terms[i, first[i] : last[i]].sum() for i in range(37)], rtol=1e-5)
        np.testing.assert_array_equal(at, last)
    assert (counted < len(others)).any()  # else nothing was saved
    state.count_until(rows, sums, counted, np.full(37, np.inf))
    np.testing.assert_allclose(sums, terms.sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_least_is_exact_where_it_is_above_enough(road: str, kind: type[np.floating]) -> None:
    rng = np.random.default_rng(2)
    rows, others = (rng.normal(size=(count, 9)).astype(kind) for count in (45, 3000))
    state = GrowingOthers(9, kind, capacity=20)
    assert (state.least_until(rows, np.zeros(45)) == np.inf).all()
    state.add(others[:1300])
    state.add(others[1300:])
    product = rows.astype(np.float64) @ others.astype(np.float64).T
    for since in (0, 1, 1290, 2999, 3000):
        least = product[:, since:].min(axis=1, initial=np.inf)
        enough = np.where(rng.random(45) < 0.5, -np.inf, least + rng.normal(size=45))
        found = state.least_until(rows, enough, since)
        above = ~(least <= enough)
        np.testing.assert_allclose(found[above], least[above], rtol=1e-5, atol=1e-5)
        assert (found[~above] >= least[~above] - 1e-5).all()
        assert (found[~above] <= enough[~above]).all()


@pytest.mark.parametrize("ufunc", [np.add, np.maximum])
def test_runs_are_reduced_as_by_reduceat(ufunc: np.ufunc) -> None:
    table = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32)
    starts = np.array([0, 1, 2, 30, 59])
    expected = ufunc.reduceat(table, starts, axis=0)
    np.testing.assert_allclose(reduce_runs(ufunc, table, starts), expected, rtol=1e-5, atol=1e-6)
