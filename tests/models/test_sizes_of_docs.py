"""docs/models.md: its table of sizes says what model/size=SIZE gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from msmlff.app.budget_source import config_folder
from msmlff.app.config import register_resolvers

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
SIZES = ("small", "medium", "large")


def table() -> dict[str, list[str]]:
    """The cells of each model's row, by size."""
    lines = PAGE.read_text(encoding="utf-8").split("## Sizes")[1].strip().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert [cell.strip("`").removeprefix("model/size=") for cell in rows[0][1:]] == list(SIZES)
    return {row[0].split(",")[0]: row[1:] for row in rows[2:]}


def configuration(name: str, size: str) -> DictConfig:
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("train", overrides=[f"model={name}", f"model/size={size}"]).model


def in_words(name: str, size: str) -> str:
    """What the table has to say of a model of a size."""
    keys = configuration(name, size)
    if name == "ani":
        return "-".join(map(str, keys.hidden))
    if name == "mace":
        assert keys.hidden_l_max <= 1
        irreps = [f"{keys.channels}x{irrep}" for irrep in ("0e", "1o")[: keys.hidden_l_max + 1]]
        return f"{' + '.join(irreps)}, l_max {keys.l_max}"
    if name == "nequip":
        return f"{keys.channels} channels, l_max {keys.l_max}, {keys.layers} layers"
    one = configuration(name.removeprefix("ms"), size)
    short, long = keys.scales
    same = ("channels", "l_max", "radial_mlp")
    assert OmegaConf.masked_copy(short, same) == OmegaConf.masked_copy(one, same)
    assert (keys.channels, keys.layers) == (one.channels, one.layers)
    assert keys.hidden_l_max == (one.l_max if name == "msnequip" else one.hidden_l_max)
    return f"the same, {long.channels} channels, l_max {long.l_max}"


def test_every_model_has_a_row() -> None:
    assert sorted(table()) == sorted(path.stem for path in (config_folder() / "model").glob("*.yaml"))


@pytest.mark.parametrize("name", ["mace", "msmace", "nequip", "msnequip", "ani"])
def test_rows_are_what_the_files_give(name: str) -> None:
    assert table()[name] == [in_words(name, size) for size in SIZES]
