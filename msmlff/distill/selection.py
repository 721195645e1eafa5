"""What a selector hands back: an ordered list of frames, with the record of how it came about."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.errors import InputError

FORMAT = "msmlff-selection"
SCHEMA = 1
REQUIRED = ("pool_hash", "n_pool", "descriptor", "selector", "parameters", "seed", "nested", "version")


@dataclass(frozen=True, eq=False)
class Selection:
    """Frames of one pool, in the order in which they were chosen.

    Attributes:
        ids: [chosen] int64, indices of frames in the pool; the most wanted first.
        scores: [chosen] float64, the selector's own score of each frame (CPD: log density), NaN where it
            has none.
        record: how the selection was made, JSON-serialisable: ``pool_hash``, ``n_pool``, ``descriptor`` (its
            settings), ``selector``, ``parameters``, ``seed``, ``nested`` (every prefix is the selection
            of that budget), ``version``; further keys (``details``, ``must``, ``reference``,
            ``coverage``) as they apply.
        columns: further values of each chosen frame, name -> [chosen] (CPD: ``band``).

    Raises:
        InputError: ids that repeat or are not frames of the pool, or a record without a required key.
    """

    ids: np.ndarray
    scores: np.ndarray
    record: dict[str, Any]
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [key for key in REQUIRED if key not in self.record]
        if missing:
            raise InputError(
                f"selection record lacks {', '.join(missing)}; it was not written by msmlff distill"
            )
        object.__setattr__(self, "ids", _whole_numbers(self.ids))
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float64))
        object.__setattr__(self, "columns", {name: np.asarray(c) for name, c in self.columns.items()})
        for name, values in {"scores": self.scores, **self.columns}.items():
            if values.shape != self.ids.shape:
                raise InputError(f"selection: {name} has shape {values.shape}, ids have {self.ids.shape}")
        self._check_ids()

    def _check_ids(self) -> None:
        unique, counts = np.unique(self.ids, return_counts=True)
        if len(unique) < len(self.ids):
            raise InputError(f"selection: frame {unique[counts > 1][0]} occurs more than once")
        outside = self.ids[(self.ids < 0) | (self.ids >= self.record["n_pool"])]
        if len(outside):
            raise InputError(
                f"selection: frame {outside[0]} is not in the pool (frames 0 to {self.record['n_pool'] - 1})"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, n: int) -> Selection:
        """The selection of budget ``n``: the first ``n`` frames.

        Raises:
            InputError: ``n`` is not in 1..len(self), or the method's selections are not nested.
        """
        if not 1 <= n <= len(self):
            raise InputError(
                f"selection of {len(self)} frames has no first {n}: write a number from 1 to {len(self)}"
            )
        if n < len(self) and not self.record["nested"]:
            raise InputError(
                f"selections by {self.record['selector']} are not nested: select again with budget={n}"
            )
        # What describes the chosen set as a whole does not hold for a part of it.
        record = {key: value for key, value in self.record.items() if key != "coverage"} | {"budget": n}
        columns = {name: values[:n] for name, values in self.columns.items()}
        return Selection(self.ids[:n], self.scores[:n], record, columns)

    def check_pool(self, pool_hash: str, n_pool: int, name: str = "this pool") -> None:
        """Raise InputError unless the selection was made from the pool with this content hash and length."""
        if (self.record["pool_hash"], self.record["n_pool"]) != (pool_hash, n_pool):
            raise InputError(
                f"selection was made from another pool ({self.record['n_pool']} frames, hash "
                f"{str(self.record['pool_hash'])[:12]}) than {name} ({n_pool} frames, hash "
                f"{pool_hash[:12]}): "
                "select again from this pool, or give the pool the selection belongs to"
            )

    def save(self, path: str | Path) -> None:
        """Write the selection as JSON; the file appears whole or not at all."""
        path = Path(path)
        document = {
            "format": FORMAT,
            "schema": SCHEMA,
            "ids": self.ids.tolist(),
            "scores": jsonable(self.scores),
            "columns": {name: jsonable(values) for name, values in self.columns.items()},
            "record": jsonable(self.record),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(path)

    @staticmethod
    def load(path: str | Path) -> Selection:
        """Read a selection written by :meth:`save`.

        Raises:
            InputError: the file is absent, is not a selection, or has another schema; the message names it.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{path}: no such selection file") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a selection (not JSON: {error})") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise InputError(f"{path}: not a selection (no format '{FORMAT}'); write one with msmlff distill")
        if document.get("schema") != SCHEMA:
            raise InputError(
                f"{path}: schema {document.get('schema')}, this version reads {SCHEMA}: select again"
            )
        for key, kind in {"ids": list, "scores": list, "columns": dict, "record": dict}.items():
            if not isinstance(document.get(key), kind):
                raise InputError(f"{path}: '{key}' is missing or is not a {kind.__name__}")
        try:
            scores = np.array([math.nan if s is None else s for s in document["scores"]], dtype=np.float64)
            columns = {name: np.array(values) for name, values in document["columns"].items()}
            return Selection(np.array(document["ids"]), scores, document["record"], columns)
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: not a selection ({error})") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _whole_numbers(ids: Any) -> np.ndarray:
    array = np.asarray(ids)
    if array.ndim != 1 or not len(array):
        raise InputError(f"selection: ids must be a list of at least one frame, got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"selection: ids must be whole numbers, got {array.dtype}")
    return array.astype(np.int64)


def jsonable(value: Any) -> Any:
    """``value`` with arrays as lists and NaN or infinity as null, ready for strict JSON."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
