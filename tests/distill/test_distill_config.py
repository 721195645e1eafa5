"""The configuration files of data, selector and descriptor, by Hydra's own compose."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from msmlff.app.config import build, config_folder, register_resolvers
from msmlff.distill.cpd import CPD
from msmlff.distill.simple import FullSelector, RandomSelector
from msmlff.errors import InputError

Compose = Callable[..., Any]


@pytest.fixture
def composed(repository: Path, tmp_path: Path) -> Compose:
    """composed(*overrides) -> a config of groups data and descriptor, and of selector as ``msmlff
    distill`` has it."""
    (tmp_path / "main.yaml").write_text(
        "defaults: [_self_, data: cpd_200, descriptor: untrained_mace, selector: cpd]\n"
        f"hydra: {{searchpath: ['file://{repository / 'conf'}']}}\n"
    )

    register_resolvers()

    def make(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(tmp_path), version_base=None):
            return compose("main", list(overrides))

    return make


def files(repository: Path, group: str) -> list[Path]:
    return sorted((repository / "conf" / group).glob("*.yaml"))


@pytest.mark.parametrize("method", [("cpd", CPD()), ("random", RandomSelector())], ids=["cpd", "random"])
@pytest.mark.parametrize("budget", [50, 100, 200, 400])
def test_named_budgets(composed: Compose, method: tuple[str, object], budget: int) -> None:
    name, selector = method
    data = composed(f"data={name}_{budget}").data
    assert (data.name, data.budget) == (f"{name}_{budget}", budget)
    assert instantiate(data.selector) == selector


def test_full(composed: Compose) -> None:
    data = composed("data=full").data
    assert data.budget is None
    assert instantiate(data.selector) == FullSelector()


def test_any_budget_and_any_setting(composed: Compose) -> None:
    data = composed("data.budget=300", "data.selector.central=0.3", "data.selector.density=knn").data
    assert (data.name, data.budget) == ("cpd_300", 300)
    assert instantiate(data.selector) == CPD(central=0.3, density="knn")


def test_selector_of_its_own(composed: Compose) -> None:
    assert instantiate(composed("selector=random").selector) == RandomSelector()
    assert instantiate(composed("selector@data.selector=random").data.selector) == RandomSelector()


@pytest.mark.parametrize("group", ["selector", "descriptor"])
def test_files_name_every_setting_with_the_default_of_the_code(repository: Path, group: str) -> None:
    for path in files(repository, group):
        config = OmegaConf.load(path)
        assert isinstance(config, DictConfig)
        cls = get_class(config._target_)
        parameters = inspect.signature(cls).parameters
        assert set(config) - {"_target_"} == set(parameters), path
        missing = {name for name in parameters if OmegaConf.is_missing(config, name)}
        required = {n for n, p in parameters.items() if p.default is inspect.Parameter.empty}
        assert missing == required, path
        if not missing:
            assert instantiate(config, _convert_="all") == cls(), path
            continue
        for name in set(parameters) - missing:
            assert config[name] == parameters[name].default, f"{path}: {name}"


@pytest.mark.parametrize("group", ["selector", "descriptor"])
def test_every_file_composes(repository: Path, composed: Compose, group: str) -> None:
    names = [path.stem for path in files(repository, group)]
    assert len(names) >= 3
    for name in names:
        assert composed(f"{group}={name}")[group]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("selector=d_optimal selector.components=2.5", "selector.components=2.5: write a whole number"),
        (
            "selector=set_cover selector.components=many",
            "components='many': write a whole number or null",
        ),
        ("selector=facility selector.exact_frames=1e3", "exact_frames=1000.0: write a whole number"),
        ("selector=cpd selector.central=half", "selector.central='half': write a number"),
        ("selector=fps selector.standardise=2", "selector.standardise=2: write true or false"),
        ("selector=kmeans selector.pooling=3", "selector.pooling=3: write a word"),
    ],
)
def test_parameters_of_a_wrong_kind(override: str, message: str) -> None:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("distill", override.split())
    with pytest.raises(InputError, match=re.escape(message)):
        build(config.selector, "selector")
