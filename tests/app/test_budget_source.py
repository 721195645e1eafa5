"""data=SELECTOR_BUDGET: any selector of conf/selector, any whole number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class

from msmlff.app.budget_source import explain, selectors, split_name
from msmlff.app.config import check_overrides, config_folder, group_choices, register_resolvers
from msmlff.errors import InputError


@pytest.fixture
def data() -> Callable[..., Any]:
    """data(*overrides) -> the group data of the training configuration."""

    def make(*overrides: str) -> Any:
        register_resolvers()
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            return compose("train", list(overrides)).data

    return make


@pytest.mark.parametrize("selector", selectors())
def test_every_selector_takes_any_budget(data: Callable[..., Any], selector: str) -> None:
    made = data(f"data={selector}_137")
    assert (made.name, made.budget, made.unit) == (f"{selector}_137", 137, "frames")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        alone = compose("distill", [f"selector={selector}"]).selector
    assert made.selector == alone
    get_class(made.selector._target_)


def test_keys_of_the_choice_can_be_changed(data: Callable[..., Any]) -> None:
    made = data("data=cpd_50", "data.budget=60", "data.selector.central=0.3", "data.unit=atoms")
    assert (made.name, made.selector.central, made.unit) == ("cpd_60", 0.3, "atoms")


def test_a_file_is_preferred_to_the_template(data: Callable[..., Any]) -> None:
    assert data("data=full").budget is None


def test_globs_find_the_usual_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    register_resolvers()
    seen: list[str] = []
    monkeypatch.setattr("msmlff.app.config.check_values", lambda config: seen.append(config.data.name))
    check_overrides("train", ["-m", "data=glob([cpd_*,f*l])"])
    assert seen == ["cpd_100", "cpd_200", "cpd_25", "cpd_400", "cpd_50", "full"]


WRONG = "cpd_0 cpd_-5 cpd_05 cpd_1.5 cpd_ cpd full_5 _5 cpt_5 ../selector/cpd_5"


@pytest.mark.parametrize("name", [*(f"data/{name}" for name in WRONG.split()), "model/cpd_5", "cpd_5"])
def test_what_is_no_choice(name: str) -> None:
    assert split_name(name) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cpt_50", "there is no selector 'cpt'. Did you mean data=cpd_50"),
        ("cdp", "there is no selector 'cdp'. Did you mean data=cpd_200"),
        ("cpd", "data=cpd: has no budget. Did you mean data=cpd_200?"),
        ("cpd_0", "'0' is no whole number of frames from 1. Did you mean data=cpd_200?"),
        ("cpd_many", "'many' is no whole number"),
        ("random_1.5", "'1.5' is no whole number"),
        ("ful", "Did you mean data=full?"),
        ("full_200", "there is no selector 'full'. Did you mean data=full?"),
        ("xyz", "Write data=full or data=SELECTOR_BUDGET, for instance data=cpd_200. Selectors: "),
    ],
)
def test_explanations(name: str, words: str) -> None:
    assert words in explain(name)


@pytest.mark.parametrize("arguments", [["data=cpt_50"], ["-m", "data=cpd_50,cpt_50"]])
def test_the_command_line_is_explained(arguments: list[str]) -> None:
    register_resolvers()
    with pytest.raises(InputError, match=r"there is no selector 'cpt'\. Did you mean data=cpd_50") as caught:
        check_overrides("train", arguments)
    assert "Available options" not in str(caught.value)


def test_help_says_how_choices_are_made() -> None:
    line = group_choices({"data": "cpd_200"})
    assert line.startswith("data: full, or SELECTOR_BUDGET, e.g. cpd_200; selectors: ")
    assert all(name in line for name in ("cpd", "random"))
