"""data=SELECTOR_BUDGET: a Hydra source of choices made of one template, for any selector and any number."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from msmlff.errors import InputError

SCHEME = "selector_budget"
GROUP = "data"
TEMPLATE = f"{GROUP}/template/SELECTOR_BUDGET.yaml"
ALL = "full"  # the selector that takes no budget
USUAL = (25, 50, 100, 200, 400)  # what glob(*) in a sweep finds


class BudgetSource(ConfigSource):
    """``data/direct_137`` is the template of conf/data/template with selector direct and budget 137.

    It is on the search path behind the folder conf/, so that a file conf/data/NAME.yaml is preferred.
    """

    @staticmethod
    def scheme() -> str:
        """What its place on the search path begins with."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """The template, filled in."""
        parts = split_name(config_path)
        if parts is None:
            raise ConfigLoadError(f"Config not found: {config_path}")
        selector, budget = parts
        text = (config_folder() / TEMPLATE).read_text(encoding="utf-8")
        text = text.replace("SELECTOR", selector).replace("BUDGET", str(budget))
        config = OmegaConf.create(text)
        header = ConfigSource._get_header_dict(text)
        return ConfigResult(config=config, path=self.full_path(), provider=self.provider, header=header)

    def available(self) -> bool:
        """Always."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Whether it has choices there."""
        return config_path.strip("/") == GROUP

    def is_config(self, config_path: str) -> bool:
        """Whether this is data/SELECTOR_BUDGET of a selector that there is."""
        return split_name(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Every selector with some usual budgets; others are there all the same."""
        if not self.is_group(config_path) or results_filter == ObjectType.GROUP:
            return []
        return sorted(f"{selector}_{budget}" for selector in selectors() for budget in USUAL)


class BudgetSearchPath(SearchPathPlugin):
    """Puts the source on Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append it."""
        search_path.append(provider="msmlff", path=f"{SCHEME}://{GROUP}")


def config_folder() -> Path:
    """The folder of configuration files: conf/ of the checkout, or the copy inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "conf", package / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise InputError(f"no configuration files beside {package}: reinstall msmlff")


def register_budget_source() -> None:
    """Make Hydra know the source and look there."""
    Plugins.instance().register(BudgetSource)
    Plugins.instance().register(BudgetSearchPath)


def selectors() -> list[str]:
    """The selectors that take a budget, by the names of the files in conf/selector."""
    return sorted(path.stem for path in (config_folder() / "selector").glob("*.yaml") if path.stem != ALL)


def split_name(config_path: str) -> tuple[str, int] | None:
    """Selector and budget of data/SELECTOR_BUDGET; None where it is not that."""
    found = re.fullmatch(rf"{GROUP}/(\w+)_([1-9]\d*)(\.yaml)?", config_path.strip("/"))
    return (found[1], int(found[2])) if found and found[1] in selectors() else None


def explain(name: str) -> str:
    """What is wrong with data=NAME where there is no such choice, and what to write."""
    known = selectors()
    selector, _, number = name.rpartition("_")
    if name in known:
        reason, near = "has no budget", [f"{name}_200"]
    elif selector in known:
        reason, near = f"{number!r} is no whole number of frames from 1", [f"{selector}_200"]
    else:
        word = selector if re.fullmatch(r"[\d.,+-]*", number) else name
        matches = difflib.get_close_matches(word, [*known, ALL], n=3, cutoff=0.5)
        number = number if number.isdecimal() and int(number) else "200"
        reason = f"there is no selector {word!r}"
        near = [match if match == ALL else f"{match}_{number}" for match in matches]
    hint = f" Did you mean {' or '.join(f'data={n}' for n in near)}?" if near else ""
    return (
        f"data={name}: {reason}.{hint} Write data={ALL} or data=SELECTOR_BUDGET, for instance data=cpd_200. "
        f"Selectors: {', '.join(known)}."
    )
