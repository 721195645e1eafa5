"""model=NAME and model/size=SIZE: every choice is a model, and NequIPs are trained by the same command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from msmlff.app.budget_source import config_folder
from msmlff.app.config import build, check_overrides, register_resolvers
from msmlff.data.pools import PoolSpec, load_pool
from msmlff.distill.descriptor_gradients import LastLayerGradients
from msmlff.distill.descriptors import TrainedModel
from msmlff.errors import InputError
from msmlff.models import ForceField, build_model
from msmlff.models.files import load_model

MODELS = sorted(path.stem for path in (config_folder() / "model").glob("*.yaml"))
SIZES = ("small", "medium", "large")


def chosen_model(*overrides: str) -> ForceField:
    """The model of hydrogen and carbon that the overrides of train.py choose."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=list(overrides))
    return build_model(build(config.model, "model"), [1, 6], [0.0, 0.0])


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_in_order(name: str) -> None:
    """Without a size there is a model, too; a larger size has more parameters."""
    chosen_model(f"model={name}")
    models = [chosen_model(f"model={name}", f"model/size={size}") for size in SIZES]
    assert len({type(model) for model in models}) == 1
    parameters = [sum(p.numel() for p in model.parameters()) for model in models]
    assert parameters[0] < parameters[1] < parameters[2]


def test_every_model_has_every_size() -> None:
    """A model without its sizes, or sizes without a model, would be an error at the command line alone."""
    for size in SIZES:
        folder = config_folder() / "model" / "size" / size
        assert sorted(path.stem for path in folder.glob("*.yaml")) == MODELS


def test_keys_win_over_the_size() -> None:
    overrides = ["model=msnequip", "model/size=large", "model.channels=8", "model.scales.1.cutoff=6.5"]
    model = chosen_model(*overrides)
    assert model.architecture.channels == 8
    assert model.architecture.hidden_l_max == 3
    assert model.scale_cutoffs == (2.5, 6.5)


def test_size_that_is_not_there() -> None:
    register_resolvers()
    with pytest.raises(InputError, match=r"(?s)Available options in 'model/size'.*large"):
        check_overrides("train", ["model=nequip", "model/size=huge"])
    check_overrides("train", ["-m", "model=glob(*)", "model/size=small,large"])


@pytest.fixture(params=["nequip", "msnequip"])
def overrides(request: pytest.FixtureRequest) -> list[str]:
    long = "{cutoff: 4.0, channels: 4, l_max: 0, radial_mlp: [8]}"
    scales = f"model.scales=[{{cutoff: 3.2, channels: 4, l_max: 1, radial_mlp: [8]}}, {long}]"
    own = {"nequip": ["model.cutoff=3.2", "model.radial_mlp=[8]"], "msnequip": [scales]}
    return [f"model={request.param}", "model/size=small", *own[request.param], "model.channels=6"]


def test_training(
    overrides: list[str], pool_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run to its end; its model gives the errors, the rows and the last-layer gradients of a pool."""
    from msmlff.app import cli, guard

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSMLFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setattr(guard, "exit_code", 0)
    settings = [
        "pool=files", f"pool.path={pool_folder}", "data=random_12", "training.steps=16", "threads=1",
        "training.validations=2", "training.schedule.warmup_steps=4", "report=false", "hydra.run.dir=run",
    ]  # fmt: skip
    assert cli.main(["train", *settings, *overrides]) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    model = load_model(tmp_path / "run" / "model.safetensors", dtype=torch.float64)
    assert record["model"]["name"] == type(model).__name__
    assert [s["cutoff"] for s in record["model"]["scales"]] == list(model.scale_cutoffs)
    assert record["steps"] == 16
    assert np.isfinite(record["best_score"])
    frames = load_pool(PoolSpec(name="files", path=str(pool_folder))).train
    rows = TrainedModel(str(tmp_path / "run"))(frames).rows
    assert rows.shape == (sum(len(f) for f in frames), model.architecture.layers * 6)
    gradients = LastLayerGradients(str(tmp_path / "run"))(frames).rows
    assert gradients.shape == (len(rows), 6)
    assert np.abs(gradients).max() > 0
