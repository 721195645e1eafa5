"""A run folder as the report, the sweep table and the start page read it: whatever of it exists."""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.analysis.errors import Predictions, error_table
from msmlff.data.configuration import Configuration
from msmlff.data.formats import read_frames
from msmlff.errors import InputError


@dataclass(frozen=True)
class RunFolder:
    """The files of one run; None or empty where a file is absent.

    Attributes:
        path: the folder.
        config: text of config.yaml.
        record: record.json.
        selection: selection.json, {"ids", "scores", "columns", "record"}.
        pool_map: arrays of pool_map.npz.
        metrics: columns of metrics.csv, name -> [rows] float64, NaN where a row has no value.
        predictions: "val" and "test", as far as they exist.
        errors: test_metrics.json; worked out of the test predictions where it is absent.
        worst: geometries of the frames with the largest force errors (worst_frames.extxyz).
        problems: file name -> why it could not be used, for files that exist and are broken.
    """

    path: Path
    config: str | None = None
    record: dict[str, Any] = field(default_factory=dict)
    selection: dict[str, Any] | None = None
    pool_map: dict[str, np.ndarray] | None = None
    metrics: dict[str, np.ndarray] = field(default_factory=dict)
    predictions: dict[str, Predictions] = field(default_factory=dict)
    errors: dict[str, Any] | None = None
    worst: list[Configuration] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What was trained on what: "MS-MACE on dense_hydrogen · CPD 200"."""
        model = self.record.get("model", {}).get("name") or "Force field"
        pool = self.record.get("data", {}).get("pool")
        title = f"{model_label(model)} on {pool}" if pool else model_label(model)
        chosen = self.selection_label
        return f"{title} · {chosen}" if chosen else title

    @property
    def selection_label(self) -> str:
        """Selector and number of frames: "CPD 200"; "" where it is not known."""
        if not self.selection:
            n_train = self.record.get("data", {}).get("n_train")
            return f"{n_train} frames" if n_train else ""
        selector = selector_label(self.selection.get("record", {}).get("selector", "selection"))
        return f"{selector} {len(self.selection.get('ids', ()))}"


def model_label(name: str) -> str:
    """The name as the papers print it: MSMACE and msmace are MS-MACE."""
    return {"MSMACE": "MS-MACE", "MSNEQUIP": "MS-NequIP", "NEQUIP": "NequIP", "MACE": "MACE"}.get(
        name.upper(), name
    )


def group_label(name: str | None) -> str:
    """What groups are called in a heading: the name of their label, spelled out; else "group"."""
    return (name or "group").replace("_g_cm3", " g/cm³").replace("_", " ")


def selector_label(name: str) -> str:
    """A selector's class name as words: CPD, random, full."""
    short = name.removesuffix("Selector")
    return short if short.isupper() or short == name else short.lower()


def read_run(path: str | Path) -> RunFolder:
    """Read a run folder; absent files are left out and broken ones are named in ``problems``.

    Raises:
        InputError: the folder does not exist.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder")
    problems: dict[str, str] = {}

    def read(name: str, reader: Any) -> Any:
        try:
            return reader(path / name)
        except FileNotFoundError:
            return None
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, InputError) as error:
            problems[name] = str(error) or type(error).__name__
            return None

    predictions = {}
    for split in ("val", "test"):
        name = f"predictions_{split}.npz"
        if (path / name).exists() and (found := read(name, Predictions.load)) is not None:
            predictions[split] = found
    errors = read("test_metrics.json", _json_object)
    if errors is None and "test" in predictions:
        errors = error_table(predictions["test"])
    return RunFolder(
        path=path,
        config=read("config.yaml", lambda file: file.read_text(encoding="utf-8")),
        record=read("record.json", _json_object) or {},
        selection=read("selection.json", _json_object),
        pool_map=read("pool_map.npz", _pool_map),
        metrics=read("metrics.csv", _columns) or {},
        predictions=predictions,
        errors=errors,
        worst=read("worst_frames.extxyz", _frames) or [],
        problems=problems,
    )


def _frames(file: Path) -> list[Configuration]:
    return list(read_frames(file)) if file.exists() else []


def _json_object(file: Path) -> dict[str, Any]:
    value = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(value, Mapping):
        raise ValueError("not a JSON object")
    return dict(value)


def _pool_map(file: Path) -> dict[str, np.ndarray]:
    """Arrays of a pool map, checked for what the map needs.

    ``pca`` [n, 2] and ``chosen`` [n] bool are required; ``frame_id``, ``log_density``, ``band`` and ``group``
    have a default where they are absent (a selector without a density has none).
    """
    with np.load(file, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    n = len(arrays["chosen"])
    arrays.setdefault("frame_id", np.arange(n))
    arrays.setdefault("log_density", np.full(n, np.nan))
    arrays.setdefault("band", np.full(n, ""))
    arrays.setdefault("group", np.full(n, ""))
    if arrays["pca"].shape != (n, 2) or any(len(a) != n for a in arrays.values()):
        raise ValueError(f"arrays do not belong together: chosen has {n} frames, pca {arrays['pca'].shape}")
    return arrays


def _columns(file: Path) -> dict[str, np.ndarray]:
    with file.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    names = [name for name in (rows[0] if rows else {}) if name]
    return {name: np.array([_number(row.get(name)) for row in rows]) for name in names}


def _number(text: str | None) -> float:
    """The number in a cell; NaN for an empty one and for the torn end of a file whose writer was killed."""
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan
