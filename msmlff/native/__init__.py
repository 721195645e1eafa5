"""The CPU kernels in C++: where their libraries lie, and whether they can run on this machine.

``operations`` are the models' (``nn.ops.native_library`` calls them), ``rows`` distillation's
(``distill.row_products``). This package needs nothing but the standard library, so that commands which need
no torch can use it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from msmlff.native import build
from msmlff.native.build import COMMAND, LIBRARIES

__all__ = ["COMMAND", "LIBRARIES", "missing"]


@cache
def missing(name: str, load: Callable[[], object]) -> str | None:
    """Why the library ``name`` of ``LIBRARIES`` cannot run on this machine and how to get it; None where it
    can. ``load``: loads it, or raises OSError."""
    path = LIBRARIES[name]
    if not path.is_file():
        return f"the kernels are not compiled; with a C++ compiler: {COMMAND}"
    reason = _other_processor_or_source(path)
    if reason is not None:
        return f"{reason}; compile again: {COMMAND}"
    try:
        load()
    except OSError as error:
        return f"{path.name} does not load ({error}); compile it again: {COMMAND}"
    return None


def _other_processor_or_source(path: Path) -> str | None:
    try:
        note = json.loads(build.NOTE.read_text())
    except (OSError, ValueError):
        return f"nothing says which processor {path.name} was compiled for"
    if note["sources"] != build.sources_hash():
        return "the kernels were compiled from other source"
    here = build.processor()
    lacking = sorted(set(note["flags"].split()) - set(here["flags"].split()))
    if note["machine"] != here["machine"] or (note["native"] and lacking):
        reason = f"lacks {' '.join(lacking[:3])}" if lacking else f"is {here['machine']}"
        return f"the kernels were compiled for another processor (this one {reason})"
    return None
