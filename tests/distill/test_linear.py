"""CUR against scikit-matter's picks, MaxDet against the determinant itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from msmlff.distill.features import Features
from msmlff.distill.linear import CUR, MaxDet
from msmlff.errors import InputError

MakeFeatures = Callable[..., Features]


def matrix() -> np.ndarray:
    rng = np.random.default_rng(7)
    return np.round(rng.normal(size=(30, 6)) * [3, 2, 1.5, 1, 0.7, 0.4], 2)


def wide_matrix() -> np.ndarray:
    rng = np.random.default_rng(8)
    return np.round(rng.normal(size=(120, 80)) @ rng.normal(size=(80, 80)), 3)


def one_atom_frames(x: np.ndarray) -> Features:
    n = len(x)
    return Features(x, np.arange(n + 1), np.ones(n, dtype=np.int64), "pool")


RAW = {"pooling": "mean", "standardise": False}

# skmatter 0.4.1: CUR(n_to_select=len(picks), k=k, recompute_every=1).fit(x).selected_idx_
SKMATTER = [
    (matrix, 1, [3, 17, 7, 27, 4, 11]),
    (matrix, 3, [3, 27, 26, 11]),
    (wide_matrix, 1, [116, 48, 45, 83, 34, 26, 82, 57, 103, 30, 70, 110, 36, 108, 111, 74]),
    (wide_matrix, 4, [116, 57, 48, 70, 83, 30, 45, 2, 19, 74, 110, 0, 87, 22, 104, 73]),
]


@pytest.mark.parametrize(("make", "k", "picks"), SKMATTER)
def test_cur_picks_of_scikit_matter(make: Callable[[], np.ndarray], k: int, picks: list[int]) -> None:
    features = one_atom_frames(make())
    assert CUR(k=k, **RAW).select(features, len(picks), seed=0).ids.tolist() == picks  # type: ignore[arg-type]


def test_cur_beyond_the_rank_begins_again_with_the_rest() -> None:
    x = matrix()
    whole = CUR(**RAW).select(one_atom_frames(x), 30, seed=0)  # type: ignore[arg-type]
    first = whole.ids[:6]
    rest = np.setdiff1d(np.arange(30), first)
    again = CUR(**RAW).select(one_atom_frames(x[rest]), 6, seed=0)  # type: ignore[arg-type]
    assert whole.ids[6:12].tolist() == rest[again.ids].tolist()
    assert whole.record["details"]["rounds"] >= 5


def test_cur_complements_held_frames() -> None:
    x = np.diag([9.0, 8.0, 1.0])
    x = np.concatenate([x, [[7.0, 7.0, 0.0]]])  # large, and in the span of frames 0 and 1
    picked = CUR(**RAW).select(one_atom_frames(x), 1, reference=[0, 1], seed=0)  # type: ignore[arg-type]
    assert picked.ids.tolist() == [2]


def test_sampled_cur_draws_in_proportion_to_the_scores() -> None:
    x = np.diag(np.ones(4))
    x = np.concatenate([x, [[2.0, 0, 0, 0]]])
    sampler = CUR(draw="sampled", k=1, **RAW)  # type: ignore[arg-type]
    first = [int(sampler.select(one_atom_frames(x), 1, seed=seed).ids[0]) for seed in range(400)]
    # The leading singular vector lies along the first column: rows 0 and 4 have U² of 1/5 and 4/5.
    assert set(first) == {0, 4}
    assert 0.72 < np.mean(np.array(first) == 4) < 0.88


def test_seeds_matter_where_there_is_chance() -> None:
    assert CUR(draw="sampled").seeded
    assert not CUR().seeded
    assert not MaxDet().seeded


def gram(x: np.ndarray, selector: MaxDet) -> np.ndarray:
    """Kernel matrix plus noise, by the definition in the docstring."""
    if selector.kernel == "linear":
        k = x @ x.T
        k /= np.trace(k) / len(k)
    else:
        squares = ((x[:, None] - x) ** 2).sum(axis=2)
        width = selector.width * np.median(np.sqrt(squares[np.triu_indices(len(x), 1)]))
        k = np.exp(-squares / (2 * width**2))
    return k + selector.regularisation * np.eye(len(x))


@pytest.mark.parametrize("kernel", ["linear", "gaussian"])
@pytest.mark.parametrize("held", [[], [5, 11, 20]])
def test_maxdet_is_greedy_in_the_determinant(kernel: str, held: list[int]) -> None:
    x, selector = matrix(), MaxDet(kernel=kernel, regularisation=1e-3, **RAW)  # type: ignore[arg-type]
    k = gram(x, selector)
    chosen, expected = list(held), []
    for _ in range(15):
        before = np.linalg.slogdet(k[np.ix_(chosen, chosen)])[1] if chosen else 0.0
        gains = np.full(30, -np.inf)
        for i in set(range(30)) - set(chosen):
            both = [*chosen, i]
            gains[i] = np.linalg.slogdet(k[np.ix_(both, both)])[1] - before - np.log(selector.regularisation)
        chosen.append(int(np.argmax(gains)))
        expected.append(gains.max())
    selection = selector.select(one_atom_frames(x), 15, reference=held, seed=0)
    assert selection.ids.tolist() == chosen[len(held) :]
    np.testing.assert_allclose(selection.scores, expected, rtol=1e-6)


@pytest.mark.parametrize("selector", [MaxDet(), MaxDet(kernel="gaussian"), CUR(), CUR(draw="sampled", k=3)])
def test_goes_on_from_its_beginning_beyond_the_rank_and_with_copies(
    selector: MaxDet | CUR, make_features: MakeFeatures
) -> None:
    features = make_features(90)
    rows = features.rows.copy()
    for i in range(40, 60):  # copies of frames 0 to 19, as far as their sizes allow
        n = min(len(features[i]), len(features[i - 40]))
        rows[features.offsets[i] : features.offsets[i] + n] = features[i - 40][:n]
    features = replace(features, rows=rows)
    whole = selector.select(features, 90, seed=2)
    for n in (3, 12, 40, 80):
        rest = selector.select(features, None, reference=whole.first(n), seed=2)
        assert rest.ids.tolist() == whole.ids[n:].tolist()


def test_gaussian_kernel_that_would_not_fit_says_so() -> None:
    features = one_atom_frames(np.random.default_rng(0).normal(size=(12000, 2)))
    with pytest.raises(InputError, match=r"selector\.kernel=linear"):
        MaxDet(kernel="gaussian").select(features, None, seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CUR(k=0), r"selector\.k=0"),
        (lambda: CUR(draw="all"), r"selector\.draw=all"),
        (lambda: CUR(pooling="max"), r"selector\.pooling=max"),
        (lambda: MaxDet(kernel="cubic"), r"selector\.kernel=cubic"),
        (lambda: MaxDet(regularisation=0), r"selector\.regularisation=0"),
        (lambda: MaxDet(width=-1.0), r"selector\.width=-1"),
    ],
)
def test_wrong_parameters(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
