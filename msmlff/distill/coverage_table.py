"""The few lines about coverage that a user reads first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def coverage_table(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows (name, text) from the record of a Selection, short enough for a terminal; empty without coverage.

    Args:
        record: ``Selection.record``, with the key "coverage" that ``distill`` writes.
    """
    found = record.get("coverage")
    if not found:
        return []
    chance = found.get("random", {})
    rows = [
        ("frames near the selection", _beside(found["frames"]["share"], chance.get("frames"))),
        ("environments near it", _beside(found["environments"]["share"], chance.get("environments"))),
    ]
    if "entropy" in found:
        entropy = found["entropy"]
        rows.append(
            ("environments it has seen (dH <= 0)", _beside(entropy["overlap"], chance.get("overlap")))
        )
        rows.append(
            ("entropy, selection of pool", f"{entropy['selection']:.2f} of {entropy['pool']:.2f} nats")
        )
    if found.get("components"):
        leading = found["components"][:3]
        rows.append(("range of leading components", ", ".join(_percent(c["range"]) for c in leading)))
    rows += _worst(found)
    return rows + _tails(found)


def _worst(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, name in (("elements", "least covered element"), ("groups", "least covered group")):
        shares = {n: v["share"] for n, v in found.get(key, {}).items() if v["share"] is not None}
        if len(shares) > 1:
            worst = min(shares, key=lambda n: shares[n])
            rows.append((name, f"{worst}: {_percent(shares[worst])}"))
    return rows


def _tails(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {
        "atom_force": "atoms of the 1 % largest forces",
        "energy_high": "frames of the 5 % highest energies",
        "energy_low": "frames of the 5 % lowest energies",
    }
    rows = []
    for key, name in names.items():
        if key in found.get("tails", {}):
            tail = found["tails"][key]["1 %" if key == "atom_force" else "5 %"]
            rows.append((name, f"{_percent(tail['near'])} near, {_percent(tail['chosen'])} chosen"))
    return rows


def _beside(share: float, chance: float | None) -> str:
    return _percent(share) + ("" if chance is None else f" (random: {_percent(chance)})")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
