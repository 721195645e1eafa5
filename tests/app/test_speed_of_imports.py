"""What msmlff distill must not import: with cached features, imports would take longer than the choice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "pytorch_lightning",
    "lightning_fabric",
    "e3nn",
    "vesin",
    "plotly",
    "wandb",
    "ase.io",
    "ase.db",
)
SKLEARN = ("sklearn", "pandas")
PROGRAM = """
import json, sys
from msmlff.app import cli
sys.argv = ["msmlff"]
code = cli.main(["distill", *json.loads(sys.argv_given)])
print("MODULES", json.dumps([code, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def modules(
    pool_folder: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., set[str]]:
    """modules(*overrides) -> names of all modules that a run of msmlff distill had imported at its end."""
    folder = tmp_path_factory.mktemp("imports")
    own_cache = {**environment, "MSMLFF_CACHE": str(folder / "cache")}  # empty, whatever ran before

    def run(*overrides: str) -> set[str]:
        arguments = ["pool=files", f"pool.path={pool_folder}", "budget=5", *overrides]
        if "~descriptor" not in overrides:
            arguments += ["descriptor.channels=4", "descriptor.layers=1"]
        program = PROGRAM.replace("sys.argv_given", repr(json.dumps(arguments)))
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder,
            env=own_cache,
            capture_output=True,
            text=True,
            timeout=300,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("MODULES ")]
        assert lines, done.stderr
        code, names = json.loads(lines[0].removeprefix("MODULES "))
        assert code == 0, done.stderr
        return set(names)

    assert "torch" in run("selector=random")  # reads the pool, computes the features
    return run


def test_cached_features_need_no_torch(modules: Callable[..., set[str]]) -> None:
    for selector in ("random", "cpd", "kmeans", "direct", "bank"):
        loaded = modules(f"selector={selector}")
        # The map is drawn all the same (test_distill_command), in a process of its own.
        assert not loaded & {*HEAVY, *SKLEARN, "matplotlib"}
