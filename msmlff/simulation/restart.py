"""restart.safetensors: all that a simulation needs to go on, bit for bit on the CPU. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.simulation.engine import MolecularDynamics
from msmlff.simulation.failure import Bond, Failure
from msmlff.simulation.files import write_whole

RESTART = "restart.safetensors"
VERSION = 2
_KEY = "msmlff_simulation"


@dataclass(frozen=True)
class Restart:
    """What a restart file holds.

    Attributes:
        starts: the configurations the replicas started from.
        state: of ``MolecularDynamics.state``.
        step: steps done.
        failures: by the replica's number.
        facts: what the writer kept beside it, as JSON takes it.
    """

    starts: list[Configuration]
    state: dict[str, Tensor]
    step: int
    failures: dict[int, Failure]
    facts: dict[str, Any]


def save_restart(
    path: Path, md: MolecularDynamics, starts: list[Configuration], facts: Mapping[str, Any]
) -> None:
    """Write the file; it appears whole or not at all.

    Args:
        path: of the file.
        md: the simulation.
        starts: the configurations that all its replicas, failed ones too, started from.
        facts: what else is needed to go on.

    Raises:
        OutputError: it cannot be written.
    """
    tensors = {
        "start.numbers": np.concatenate([f.numbers for f in starts]),
        "start.positions": np.concatenate([f.positions for f in starts]),
        "start.cell": np.stack([f.cell for f in starts]),
        "start.pbc": np.stack([f.pbc for f in starts]),
        "start.count": np.array([len(f) for f in starts]),
    }
    header = {
        "version": VERSION,
        "step": md.step,
        "sources": [f.source for f in starts],
        "failures": [_plain(f) for f in md.failures.values()],
        "facts": dict(facts),
    }
    content = {**{name: torch.from_numpy(a) for name, a in tensors.items()}, **md.state()}
    for failure in md.failures.values():
        content[f"failed.{failure.replica}.positions"] = torch.from_numpy(failure.frame.positions)
        content[f"failed.{failure.replica}.cell"] = torch.from_numpy(failure.frame.cell)
    write_whole(path, save(content, metadata={_KEY: json.dumps(header)}))


def load_restart(path: Path) -> Restart:
    """Read the file.

    Raises:
        InputError: no such file, a damaged one, or one of another version.
    """
    if not path.is_file():
        raise InputError(f"there is no {path}: the simulation ended before it was saved for the first time")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): start the simulation anew") from error
    if header["version"] != VERSION:
        raise InputError(
            f"{path} is of version {header['version']}, this program reads {VERSION}: use the one that "
            "wrote it"
        )
    starts = _starts(tensors, header["sources"])
    failures = [
        Failure(
            **{**f, "atoms": tuple(f["atoms"]), "bond": _bond(f["bond"]), "value": _number(f["value"])},
            frame=Configuration(
                starts[f["replica"]].numbers,
                tensors.pop(f"failed.{f['replica']}.positions").numpy(),
                tensors.pop(f"failed.{f['replica']}.cell").numpy(),
                starts[f["replica"]].pbc,
            ),
        )
        for f in header["failures"]
    ]
    state = {name: value for name, value in tensors.items() if not name.startswith("start.")}
    return Restart(starts, state, header["step"], {f.replica: f for f in failures}, header["facts"])


def _starts(tensors: dict[str, Tensor], sources: list[str]) -> list[Configuration]:
    arrays = {
        name: tensors[f"start.{name}"].numpy() for name in ("numbers", "positions", "cell", "pbc", "count")
    }
    ends = np.cumsum(arrays["count"])
    return [
        Configuration(
            arrays["numbers"][end - n : end].copy(),
            arrays["positions"][end - n : end].copy(),
            arrays["cell"][k].copy(),
            arrays["pbc"][k].copy(),
            source=sources[k],
        )
        for k, (end, n) in enumerate(zip(ends, arrays["count"], strict=True))
    ]


def _plain(failure: Failure) -> dict[str, Any]:
    """All but the frame, as JSON takes it."""
    kept = {name: value for name, value in vars(failure).items() if name not in ("frame", "bond")}
    kept["value"] = None if np.isnan(failure.value) else failure.value
    return {**kept, "bond": None if failure.bond is None else asdict(failure.bond)}


def _bond(content: dict[str, Any] | None) -> Bond | None:
    return None if content is None else Bond(tuple(content["atoms"]), content["start"], content["now"])


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
