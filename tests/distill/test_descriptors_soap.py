"""SOAP: settings, the message where DScribe is absent, and the power spectrum where it is installed."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from msmlff.data.configuration import Configuration
from msmlff.data.store import FrameStore
from msmlff.distill.descriptor_soap import SOAP
from msmlff.errors import InputError

installed = importlib.util.find_spec("dscribe") is not None
needs_dscribe = pytest.mark.skipif(not installed, reason="dscribe is not installed")
SMALL = SOAP(r_cut=3.0, n_max=3, l_max=2)


@pytest.mark.skipif(installed, reason="dscribe is installed")
def test_absent_package_is_named(frames: list[Configuration], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'pip install "msmlff\[soap\]"'):
        SMALL(FrameStore.build(frames, tmp_path / "cache"))


@pytest.mark.parametrize(("key", "value"), [("r_cut", 1.0), ("n_max", 0), ("l_max", 21), ("sigma", 0.0)])
def test_parameters_out_of_range(key: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"descriptor\.{key}={value}"):
        replace(SMALL, **{key: value})


@needs_dscribe
def test_rotation_translation_and_order_of_atoms_change_nothing(
    frames: list[Configuration], tmp_path: Path
) -> None:
    rotation = Rotation.random(random_state=1).as_matrix()
    moved = [replace(f, positions=(f.positions @ rotation.T + 7.0)[::-1], forces=None) for f in frames]
    plain = [replace(f, forces=None) for f in frames]
    a, b = (SMALL(FrameStore.build(x, tmp_path / "cache")) for x in (plain, moved))
    assert a.rows.shape == (sum(map(len, frames)), 3 * (3 * 4) // 2)
    for i in range(len(frames)):
        np.testing.assert_allclose(a[i], b[i][::-1], rtol=1e-4, atol=1e-5)


@needs_dscribe
@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, False)])
def test_images_are_neighbours_where_the_frame_is_periodic(
    pbc: tuple[bool, bool, bool], tmp_path: Path
) -> None:
    """Two cells written out as one frame have the environments of one; a pool may hold both kinds."""
    numbers, positions = np.array([1, 8]), np.array([[0.1, 0.2, 0.3], [1.2, 0.4, 0.1]])
    cell = np.diag([3.0, 3.1, 3.2]) * np.array(pbc)[:, None]
    one = Configuration(numbers, positions, cell, np.array(pbc))
    two = Configuration(
        np.tile(numbers, 2),
        np.concatenate([positions, positions + cell[0]]),
        cell * [[2], [1], [1]],
        np.array(pbc),
    )
    alone = Configuration(numbers, positions)
    features = SMALL(FrameStore.build([one, two, alone], tmp_path / "cache"))
    np.testing.assert_allclose(features[1], np.tile(features[0], (2, 1)), rtol=1e-4, atol=1e-5)
    assert not np.allclose(features[0], features[2], rtol=1e-2)


@needs_dscribe
def test_settings_name_the_package() -> None:
    from importlib.metadata import version

    assert SMALL.settings()["dscribe"] == version("dscribe")
    assert SMALL.settings() != replace(SMALL, sigma=0.4).settings()
