"""The Selection: what it accepts, its prefixes, its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from msmlff.distill.selection import Selection
from msmlff.errors import InputError

RECORD = {
    "pool_hash": "abc",
    "n_pool": 10,
    "budget": 4,
    "descriptor": None,
    "selector": "RandomSelector",
    "parameters": {},
    "seed": 1,
    "nested": True,
    "version": "0",
    "coverage": {"share": 0.5},
}


def made(ids: list[int] | None = None, **record: object) -> Selection:
    ids = [7, 2, 9, 0] if ids is None else ids
    columns = {"band": np.array(["central", "middle", "peripheral", "middle"][: len(ids)])}
    return Selection(np.array(ids), np.array([1.5, np.nan, 0.1, -2.0][: len(ids)]), RECORD | record, columns)


def test_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    made().save(tmp_path / "deep" / "selection.json")
    back = Selection.load(tmp_path / "deep" / "selection.json")
    assert back.ids.tolist() == [7, 2, 9, 0]
    np.testing.assert_array_equal(back.scores, [1.5, np.nan, 0.1, -2.0])
    assert back.columns["band"].tolist() == ["central", "middle", "peripheral", "middle"]
    assert back.record == RECORD
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["selection.json"]


def test_file_is_strict_json(tmp_path: Path) -> None:
    made(details={"bandwidth": float("inf")}).save(tmp_path / "s.json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document = json.loads((tmp_path / "s.json").read_text(), parse_constant=refuse)
    assert document["record"]["details"]["bandwidth"] is None


def test_first_is_the_prefix() -> None:
    part = made().first(2)
    assert part.ids.tolist() == [7, 2]
    assert part.columns["band"].tolist() == ["central", "middle"]
    assert part.record["budget"] == 2
    assert "coverage" not in part.record  # it was that of all four frames


@pytest.mark.parametrize("n", [0, -1, 5])
def test_first_of_an_impossible_number(n: int) -> None:
    with pytest.raises(InputError, match="from 1 to 4"):
        made().first(n)


def test_first_of_a_method_that_is_not_nested() -> None:
    selection = made(nested=False)
    assert len(selection.first(4)) == 4
    with pytest.raises(InputError, match=r"not nested.*budget=2"):
        selection.first(2)


@pytest.mark.parametrize(
    ("ids", "message"),
    [([1, 1], "frame 1 occurs more than once"), ([3, 10], "frame 10 is not in the pool"), ([-1], "frame -1")],
)
def test_wrong_ids(ids: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(ids)


def test_ids_that_are_no_numbers() -> None:
    with pytest.raises(InputError, match="whole numbers"):
        Selection(np.array([0.5]), np.array([0.0]), dict(RECORD))
    with pytest.raises(InputError, match="at least one frame"):
        Selection(np.array([], dtype=int), np.array([]), dict(RECORD))


def test_columns_of_another_length() -> None:
    with pytest.raises(InputError, match="scores has shape"):
        Selection(np.array([0, 1]), np.array([0.0]), dict(RECORD))


def test_selection_of_another_pool() -> None:
    made().check_pool("abc", 10)
    with pytest.raises(InputError, match="another pool"):
        made().check_pool("abd", 10, "train.xyz")
    with pytest.raises(InputError, match="another pool"):
        made().check_pool("abc", 11)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "no format"),
        ('{"format": "msmlff-selection", "schema": 99}', "schema 99"),
        ('{"format": "msmlff-selection", "schema": 1, "ids": [1]}', "'scores' is missing"),
        (
            '{"format": "msmlff-selection", "schema": 1, "ids": [1], "scores": [1], "columns": {}, '
            '"record": {}}',
            "record lacks pool_hash",
        ),
    ],
)
def test_files_that_are_no_selection(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Selection.load(path)
    assert "bad.json" in str(error.value)


def test_file_with_ids_out_of_range(tmp_path: Path) -> None:
    made().save(tmp_path / "s.json")
    document = json.loads((tmp_path / "s.json").read_text())
    document["ids"][1] = 99
    (tmp_path / "s.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"s\.json.*frame 99"):
        Selection.load(tmp_path / "s.json")


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such selection"):
        Selection.load(tmp_path / "none.json")
