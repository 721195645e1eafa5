"""Jinja as all pages of this package use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def page_template(name: str, **filters: Callable[..., Any]) -> Template:
    """A template of msmlff/analysis/templates; what is put in is escaped, a missing value is an error."""
    environment = Environment(
        loader=PackageLoader("msmlff.analysis", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
