"""Data cards: counts and means by hand, and a file that is strict JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from msmlff.data.card import DataCard, data_card_markdown, mass_density
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError


@pytest.fixture
def frames() -> list[Configuration]:
    water = Configuration(
        np.array([8, 1, 1]),
        np.zeros((3, 3)),
        cell=np.eye(3) * 3.1043,  # 18.015 amu in 29.92 Å³: 1 g/cm³
        pbc=np.ones(3, bool),
        energy=-30.0,
        forces=np.full((3, 3), 2.0),
        stress=-np.eye(3) * 0.0062415091,  # 1 GPa of pressure
        group="liquid",
    )
    molecule = Configuration(np.array([1, 1]), np.zeros((2, 3)), group="gas")
    return [water, replace(water, energy=-33.0, forces=np.zeros((3, 3))), molecule]


def test_the_numbers_of_a_card(frames) -> None:
    card = DataCard.of(
        "water", iter(frames), level="by hand", sources=["a"], versions={"x": "1"}, notes=["n"]
    )
    assert (card.frames, card.atoms, card.min_atoms, card.max_atoms, card.periodic) == (3, 8, 2, 3, 2)
    assert card.composition == {"H": 6, "O": 2}
    assert card.labels == {"energy": 2, "forces": 2, "stress": 2}
    liquid, gas = card.groups
    assert (liquid.group, liquid.frames, liquid.atoms) == ("liquid", 2, 6)
    assert liquid.energy_mean == pytest.approx(-10.5)
    assert liquid.energy_std == pytest.approx(0.5)
    assert liquid.force_rms == pytest.approx(np.sqrt(2.0))
    assert liquid.pressure == pytest.approx(1.0, rel=1e-6)
    assert liquid.density == pytest.approx(1.0, rel=1e-3)
    assert (gas.group, gas.frames) == ("gas", 1)
    assert np.isnan([gas.energy_mean, gas.force_rms, gas.pressure, gas.density]).all()


def test_a_card_comes_back_from_strict_json(frames, tmp_path) -> None:
    card = DataCard.of("water", frames)
    card.write(tmp_path / "card.json")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads((tmp_path / "card.json").read_text(), parse_constant=refuse)
    again = DataCard.read(tmp_path / "card.json")
    assert repr(again) == repr(card)  # NaN differs from itself
    assert {"msmlff", "ase", "numpy"} <= set(again.versions)
    (tmp_path / "card.json").write_text('{"groups": [{"colour": 1}]}')
    with pytest.raises(InputError, match=r"card\.json is no data card"):
        DataCard.read(tmp_path / "card.json")


def test_markdown_shows_what_there_is(frames) -> None:
    text = data_card_markdown(DataCard.of("water", frames, sources=["made by hand"], versions={"x": "1"}))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    width = rows[0].count("|")
    assert all(row.count("|") == width for row in rows)
    assert "| liquid | 2 | 6 | -10.5000 | 0.5000 | 1.414 | 1.00 | 1.00" in text
    assert "| gas | 1 | 2 |  |  |  |  |  |" in text
    assert "- made by hand" in text
    assert "## Notes" not in text


def test_no_frames_no_card() -> None:
    with pytest.raises(InputError, match="no frames"):
        DataCard.of("nothing", [])


def test_density_needs_a_periodic_cell(frames) -> None:
    assert mass_density(frames[0]) == pytest.approx(1.0, rel=1e-3)
    assert np.isnan(mass_density(frames[2]))
    assert np.isnan(mass_density(replace(frames[0], pbc=np.array([True, True, False]))))
