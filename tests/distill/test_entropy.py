"""Kernel entropy: numbers of QUESTS, limits, elements, far environments, the pool's own bandwidth."""

from __future__ import annotations

import numpy as np
import pytest

from msmlff.distill.entropy import (
    default_bandwidth,
    delta_entropy,
    entropy,
    log_kernel_sums,
    overlap,
)
from msmlff.distill.features import Features
from msmlff.distill.kernel_state import KernelState
from msmlff.distill.space import Space, environment_space
from msmlff.errors import InputError


def points() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.normal(size=(40, 3)), 1.5 * rng.normal(size=(6, 3))


def test_numbers_of_quests() -> None:
    """quests 2026.2.22: entropy(x, h=0.7), delta_entropy(y, x, h=0.7)."""
    x, y = points()
    assert entropy(x, 0.7) == pytest.approx(1.9895582464492976, abs=1e-4)
    theirs = [-2.080920025, 3.981104261, 4.958252242, 0.220842922, 2.889373890, 1.123386835]
    np.testing.assert_allclose(delta_entropy(y, x, 0.7), theirs, atol=1e-3)


def test_limits() -> None:
    x, _ = points()
    assert entropy(x, 1e-3) == pytest.approx(np.log(40), abs=1e-6)
    assert entropy(x, 1e4) == pytest.approx(0.0, abs=1e-4)
    assert entropy(np.repeat(x, 3, axis=0), 1e-3) == pytest.approx(np.log(40), abs=1e-3)
    assert overlap(x, x, 0.7) == 1.0


def test_elements_do_not_see_each_other() -> None:
    x, y = points()
    z = np.arange(40) % 2
    own = delta_entropy(y, x[z == 1], 0.7)
    np.testing.assert_allclose(delta_entropy(y, x, 0.7, np.ones(6, int), z), own, atol=1e-3)
    assert np.isinf(delta_entropy(y, x, 0.7, np.full(6, 5), z)).all()
    halves = [entropy(x[z == k], 0.7) for k in (0, 1)]
    assert entropy(x, 0.7, z) == pytest.approx(np.mean(halves) + np.log(2), abs=1e-3)


def test_far_environments_and_large_offsets() -> None:
    """No underflow, and a common offset, which a product of rows would drown in, changes nothing."""
    x, y = points()
    far = delta_entropy(y[:1] + 1e3, x, 0.1)[0]
    nearest = ((y[0] + 1e3 - x) ** 2).sum(axis=1).min() / 0.02
    assert far == pytest.approx(nearest, rel=1e-6)
    np.testing.assert_allclose(delta_entropy(y + 500, x + 500, 0.7), delta_entropy(y, x, 0.7), atol=1e-3)


def test_blocks_add_up() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3000, 4)).astype(np.float32), rng.normal(size=(1500, 4)).astype(np.float32)
    whole = np.exp(log_kernel_sums(y, x, 0.5))
    parts = np.exp(log_kernel_sums(y, x[:1111], 0.5)) + np.exp(log_kernel_sums(y, x[1111:], 0.5))
    np.testing.assert_allclose(whole, parts, rtol=1e-3)
    exact = np.exp(-((y[:9, None].astype(float) - x) ** 2).sum(axis=-1) / 0.5).sum(axis=1)
    np.testing.assert_allclose(whole[:9], exact, rtol=1e-3)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, np.nan])
def test_bandwidth_must_be_positive(bandwidth: float) -> None:
    with pytest.raises(InputError, match="bandwidth"):
        entropy(points()[0], bandwidth)


def pool(rows: np.ndarray, atoms: int, numbers: np.ndarray | None = None) -> Features:
    offsets = np.arange(0, len(rows) + 1, atoms)
    return Features(rows, offsets, np.ones(len(rows), dtype=int) if numbers is None else numbers, "pool")


def test_default_bandwidth_lets_a_quarter_cover() -> None:
    """Half of the environments are covered by a random quarter of the other frames."""
    rows = np.random.default_rng(3).normal(size=(4000, 3))
    features = pool(rows, 10)
    h = default_bandwidth(features, None)
    quarter = np.random.default_rng(4).permutation(400)[:100]
    frame = np.repeat(np.arange(400), 10)
    inside = np.isin(frame, quarter)
    assert 0.4 < overlap(rows[~inside], rows[inside], h) < 0.6


def test_default_bandwidth_scales_with_the_columns_and_ignores_copies() -> None:
    rows = np.random.default_rng(3).normal(size=(300, 3))
    h = default_bandwidth(pool(rows, 3), None)
    assert default_bandwidth(pool(10 * rows, 3), None) == pytest.approx(10 * h, rel=0.02)
    assert default_bandwidth(pool(np.ones((30, 2)), 3), None) == 1.0
    assert default_bandwidth(pool(rows[:3], 3), None) == 1.0


def test_kernel_state_is_exact_for_near_and_for_far_rows() -> None:
    """Sums in steps, from float32 and from float64 rows, agree with the formula."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(400, 6))
    rows[::7] += 400.0
    numbers = rng.choice([1, 8], size=400)
    features = pool(rows, 4, numbers)
    space = environment_space(features, None)
    assert isinstance(space, Space)
    state = KernelState(features, space, 0.8)
    chosen = [3, 50, 99, 20, 71]
    for frame in chosen:
        state.add(frame)
    wanted = np.zeros(400)
    for frame in chosen:
        there = slice(4 * frame, 4 * frame + 4)
        kernel = np.exp(-((rows[:, None] - rows[None, there]) ** 2).sum(axis=-1) / (2 * 0.8**2))
        wanted += (kernel * (numbers[:, None] == numbers[there])).sum(axis=1)
    sums = state.sums_of(np.arange(100))
    np.testing.assert_allclose(sums, wanted, rtol=4e-3)
    for frame in (0, 20, 64):
        inside = slice(4 * frame, 4 * frame + 4)
        assert state.exact_least(frame, 4e-3) == pytest.approx(wanted[inside].min(), rel=1e-9)


def test_bounds_of_few_coordinates_are_below_and_near_the_sums() -> None:
    """Rows that lie near a plane: the sums of bounds are below the sums, the least sum is exact."""
    rng = np.random.default_rng(6)
    plane = np.linalg.qr(rng.normal(size=(30, 30)))[0][:8]
    rows = rng.normal(size=(400, 8)) @ plane + 0.02 * rng.normal(size=(400, 30))
    rows[::50] += 0.1 * rng.normal(size=(8, 30))
    features = pool(rows, 4)
    space = environment_space(features, None)
    bounds, sums = KernelState(features, space, 1.0, bounds=True), KernelState(features, space, 1.0)
    assert bounds._axes is not None
    assert bounds._axes.shape == (30, 8)
    for frame in (3, 50, 99, 20, 71):
        bounds.add(frame)
        sums.add(frame)
    below, right = (state.sums_of(np.arange(100)) for state in (bounds, sums))
    assert (below <= right * (1 + 4e-3)).all()
    assert np.median(below / right) > 0.9
    for frame in (0, 12, 64):
        assert bounds.exact_least(frame, 4e-3) == pytest.approx(sums.exact_least(frame, 4e-3), rel=1e-12)
