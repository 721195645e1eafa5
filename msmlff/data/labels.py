"""From what a file calls its labels to the labels of a Configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError


@dataclass(frozen=True)
class LabelKeys:
    """The names of the labels in a file; None: do not read this label.

    Attributes:
        energy: eV, of the whole frame.
        forces: eV/Å, per-atom column.
        stress: eV/Å³ in ASE's sign: nine numbers, 3 x 3, or six in Voigt order xx yy zz yz xz xy.
        virial: eV, -stress * volume; read where there is no stress.
        group: state point or trajectory.
        weight: weight in the loss.
    """

    energy: str | None = "energy"
    forces: str | None = "forces"
    stress: str | None = "stress"
    virial: str | None = "virial"
    group: str | None = "group"
    weight: str | None = "weight"


_LOOKS_LIKE = {
    "energy": re.compile(r"energ|^(e|e0|etot|e_tot|toten)$", re.IGNORECASE),
    "forces": re.compile(r"forc|grad", re.IGNORECASE),
    "stress": re.compile(r"stress|virial", re.IGNORECASE),
}
_ABOUT_A_LABEL = re.compile(r"weight|sigma|unit|std|error", re.IGNORECASE)
_SIZES = {"energy": (1,), "stress": (6, 9)}


def labelled(
    bare: Configuration, info: Mapping[str, Any], columns: Mapping[str, np.ndarray], keys: LabelKeys
) -> Configuration:
    """The frame with its labels, taken from what the file says of the frame and of its atoms.

    Args:
        bare: geometry and source.
        info: values of the whole frame.
        columns: values per atom, [atoms, ...].
        keys: which of them are labels.

    Raises:
        InputError: a label is absent under its name while another name looks like it, or has a wrong shape.
    """
    _reject_other_names(bare, info, columns, keys)
    labels: dict[str, Any] = {"info": _scalars(info, keys)}
    if keys.energy is not None and keys.energy in info:
        labels["energy"] = _number(bare, keys.energy, info[keys.energy])
    if keys.forces is not None and keys.forces in columns:
        labels["forces"] = _forces(bare, keys.forces, columns[keys.forces])
    if keys.stress is not None and keys.stress in info:
        labels["stress"] = _tensor(bare, keys.stress, info[keys.stress])
    elif keys.virial is not None and keys.virial in info:
        labels["stress"] = _from_virial(bare, keys.virial, info[keys.virial])
    if keys.group is not None and keys.group in info:
        labels["group"] = str(info[keys.group])
    if keys.weight is not None and keys.weight in info:
        labels["weight"] = _number(bare, keys.weight, info[keys.weight])
    for name in ("forces", "stress"):
        if labels.get(name) is not None and np.isnan(labels[name]).all():
            labels[name] = None  # a label masked by NaN is absent
    return replace(bare, **labels)


def _reject_other_names(
    bare: Configuration, info: Mapping[str, Any], columns: Mapping[str, np.ndarray], keys: LabelKeys
) -> None:
    """A label that is there under another name is a mistake, never a frame without that label."""
    columns3 = {name: column for name, column in columns.items() if np.shape(column)[1:] == (3,)}
    places: list[tuple[str, str | None, Mapping[str, Any]]] = [
        ("energy", keys.energy, info),
        ("forces", keys.forces, columns3),
        ("stress", keys.stress, info),
    ]
    for label, key, place in places:
        known = {key, keys.virial, keys.weight, keys.group}
        if key is None or key in info or key in columns or (label == "stress" and keys.virial in info):
            continue
        others = sorted(k for k, value in place.items() if k not in known and _could_be(label, k, value))
        if others:
            raise InputError(
                f"{bare.source}: no {label} under the key {key!r}, but there is {', '.join(others)} (keys: "
                f"{', '.join(sorted({*info, *columns})) or 'none'}). Write pool.keys.{label}={others[0]}, or "
                f"pool.keys.{label}=null to do without"
            )


def _could_be(label: str, name: str, value: Any) -> bool:
    """Whether a value has a label's look: its name, and as many numbers as the label takes."""
    if not _LOOKS_LIKE[label].search(name) or _ABOUT_A_LABEL.search(name):
        return False
    if label not in _SIZES:
        return True
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        return False
    return array.dtype.kind in "if" and array.size in _SIZES[label]


def _number(bare: Configuration, key: str, value: Any) -> float:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.size != 1:
        raise InputError(f"{bare.source}: {key} is {value!r}, not one number")
    return float(array.reshape(()))


def _forces(bare: Configuration, key: str, value: np.ndarray) -> np.ndarray:
    shape, expected = np.shape(value), (len(bare), 3)
    if shape != expected:
        raise InputError(f"{bare.source}: the forces {key!r} have shape {list(shape)}, not {list(expected)}")
    return np.array(value, dtype=np.float64)


def _tensor(bare: Configuration, key: str, value: Any) -> np.ndarray:
    """[3, 3] from nine numbers, 3 x 3, or six in Voigt order xx yy zz yz xz xy."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{bare.source}: {key} is {value!r}, not a tensor") from error
    if array.shape == (6,):
        xx, yy, zz, yz, xz, xy = array
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if array.size != 9:
        raise InputError(f"{bare.source}: {key} has shape {list(array.shape)}; write 9 or 6 (Voigt) numbers")
    tensor = array.reshape(3, 3)
    if np.abs(tensor - tensor.T).max() > 1e-3 * max(1e-3, float(np.abs(tensor).max())):
        raise InputError(f"{bare.source}: {key} is not symmetric")
    return (tensor + tensor.T) / 2


def _from_virial(bare: Configuration, key: str, value: Any) -> np.ndarray | None:
    volume = bare.volume
    return -_tensor(bare, key, value) / volume if volume > 0 else None


def _scalars(info: Mapping[str, Any], keys: LabelKeys) -> dict[str, Any]:
    """What is left of a frame's info: numbers, strings and short lists of them."""
    used = {keys.energy, keys.stress, keys.virial, keys.group, keys.weight}
    kept: dict[str, Any] = {}
    for key, value in info.items():
        if key in used:
            continue
        plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        if isinstance(plain, bool | int | float | str) or (isinstance(plain, list) and len(plain) <= 16):
            kept[key] = plain
    return kept
