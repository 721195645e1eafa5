"""msmlff distill, in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from msmlff.analysis.map_figure import save_map
from msmlff.app import cli, guard
from msmlff.app.choose import Choice, choose
from msmlff.app.folder import FILES, LAST
from msmlff.data.formats import read_frames, write_frames
from msmlff.data.store import FrameStore
from msmlff.distill.budget import Budget
from msmlff.distill.features import Features
from msmlff.distill.fps import FPS
from msmlff.distill.pool_map import PoolMap
from msmlff.distill.selector import Picks, Rules, Task
from msmlff.training import checkpoints


@pytest.fixture
def distill(pool_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSMLFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(guard, "exit_code", 0)

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["msmlff"])
        small = [] if "~descriptor" in arguments else ["descriptor.channels=4", "descriptor.layers=1"]
        where = ["pool=files", f"pool.path={pool_folder}", "threads=1", "hydra.run.dir=run"]
        return cli.main(["distill", *where, *small, *arguments])

    return run


def test_chosen_frames_are_written_in_order(distill, pool_folder: Path, tmp_path: Path) -> None:
    assert distill("budget=5") == 0
    ids = json.loads((tmp_path / "run" / "selection.json").read_text())["ids"]
    pool = list(read_frames(pool_folder / "pool.extxyz"))
    chosen = list(read_frames(tmp_path / "run" / "selected.extxyz"))
    assert [frame.energy for frame in chosen] == [pool[i].energy for i in ids]
    assert len(ids) == 5


def test_a_failure_is_recorded_under_its_own_command(distill, tmp_path: Path) -> None:
    assert distill("budget=21") == 2
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["status"] == "failed"
    assert "budget=21" in record["stop_reason"]
    assert record["command"].startswith("msmlff distill pool=files ")


def selection(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "selection.json").read_text())


def message(capfd: pytest.CaptureFixture[str]) -> str:
    return " ".join(capfd.readouterr().err.split())


def test_result_is_one_line_a_table_and_the_files(
    distill, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert distill("budget=5") == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "5 of 20 frames of files by CPD"
    assert any(line.strip().startswith("frames near the selection") for line in lines)
    for name in ("selected.extxyz", "selection.json", "map.png"):
        assert any(line.endswith(f"run/{name}") for line in lines)
        assert (tmp_path / "run" / name).stat().st_size > 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["status"] == "finished"
    assert record["command"].startswith("msmlff distill pool=files ")


def test_rules_and_reference(distill, tmp_path: Path) -> None:
    assert distill("budget=6", "must=[7,3]", "forbidden=[0,1,2]", "reference=[4,5]", "selector=random") == 0
    ids = selection(tmp_path / "run")["ids"]
    assert ids[:2] == [7, 3]
    assert len(ids) == 6
    assert not {0, 1, 2, 4, 5} & set(ids)


def test_reference_is_an_earlier_selection(distill, tmp_path: Path) -> None:
    assert distill("budget=5", "selector=random", "map=false") == 0
    assert not (tmp_path / "run" / "map.png").exists()
    assert distill("budget=4", "reference=run/selection.json", "hydra.run.dir=more") == 0
    earlier, more = selection(tmp_path / "run"), selection(tmp_path / "more")
    assert more["record"]["reference"] == earlier["ids"]
    assert not set(earlier["ids"]) & set(more["ids"])


def test_reference_of_another_pool_names_its_file(
    distill, pool_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert distill("budget=5", "selector=random", "map=false") == 0
    other = [f"pool.path={pool_folder / 'val.extxyz'}", "reference=run/selection.json", "hydra.run.dir=more"]
    assert distill("budget=2", "selector=random", *other) == 2
    assert "reference=run/selection.json: selection was made from another pool" in message(capfd)


def test_what_the_door_says_is_a_line_and_no_line_of_source(
    distill, pool_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    frames = list(read_frames(pool_folder / "pool.extxyz"))
    write_frames(tmp_path / "twice.extxyz", [*frames, frames[3]])
    pool = [f"pool.path={tmp_path / 'twice.extxyz'}", "pool.drop=[duplicate]"]
    assert distill("budget=5", "selector=random", "~descriptor", *pool) == 0
    captured = capfd.readouterr()
    assert captured.out.splitlines()[0].startswith(" ! duplicate (1): ")
    assert "Warning" not in captured.err


def test_features_are_computed_before_the_spinner(pool_folder: Path, tmp_path: Path) -> None:
    """They have a progress bar of their own, and two live displays fight for the terminal."""
    spinning: list[bool] = []

    class Watched(Console):
        now = False

        @contextmanager
        def status(self, *arguments: Any, **settings: Any) -> Any:
            self.now = True
            yield
            self.now = False

    console = Watched()

    def descriptor(pool: FrameStore) -> Features:
        spinning.append(console.now)
        rows = np.random.default_rng(0).normal(size=(pool.num_atoms.sum(), 3))
        return Features(rows, np.append(0, np.cumsum(pool.num_atoms)), pool.numbers, pool.hash)

    class Watching(FPS):
        def pick(self, task: Task) -> Picks:
            spinning.append(console.now)
            return super().pick(task)

    pool = FrameStore.build(read_frames(pool_folder / "pool.extxyz"), tmp_path)
    what = Choice(Budget(3), 1, None, Rules())
    choose(pool, Watching(), descriptor, what, tmp_path / "run", console)  # type: ignore[arg-type]
    assert spinning == [False, True]


def test_budget_in_atoms(distill, pool_folder: Path, tmp_path: Path) -> None:
    atoms = [len(frame.numbers) for frame in read_frames(pool_folder / "pool.extxyz")]
    assert distill(f"budget={3 * max(atoms)}", "unit=atoms", "selector=random") == 0
    record = selection(tmp_path / "run")["record"]
    assert record["atoms"] <= 3 * max(atoms)
    assert (record["budget_unit"], record["budget_amount"]) == ("atoms", 3 * max(atoms))


def test_label_cost(distill, tmp_path: Path) -> None:
    """Frames of n atoms at (n / 100)^1."""
    assert distill("budget=0.1", "unit=cost", "cost_exponent=1", "selector=random") == 0
    assert 0 < selection(tmp_path / "run")["record"]["atoms"] <= 10


@pytest.mark.parametrize("quotas", ["{1.4: 1, b: 3}", "equal"])
def test_quotas_of_groups_whose_names_are_numbers(
    distill, pool_folder: Path, tmp_path: Path, quotas: str
) -> None:
    frames = list(read_frames(pool_folder / "pool.extxyz"))
    names = ["1.40", "b"]
    named = [replace(frame, group=names[i % 2], info={}) for i, frame in enumerate(frames)]
    write_frames(tmp_path / "named.extxyz", named)
    pool = f"pool.path={tmp_path / 'named.extxyz'}"
    assert distill(pool, "budget=4", f"quotas={quotas}", "selector=random") == 0
    wanted = [1, 3] if quotas != "equal" else [2, 2]
    assert np.bincount(np.array(selection(tmp_path / "run")["ids"]) % 2).tolist() == wanted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reference=nowhere.json"], "reference=nowhere.json: nowhere.json: no such selection file"),
        (["reference=[99]"], "reference: frame 99 is not in the pool; its frames are 0 to 19"),
        (["must=[20]"], "must: frame 20 is not in the pool"),
        (["must=[1]", "forbidden=[1]"], "frame 1 is in must and in forbidden"),
        (["quotas={x: 5}"], "quotas: the pool has no group 'x'; its groups are g0, g1, g2"),
        (["budget=21"], "budget=21 is more than the 20 frames that can be chosen"),
        (["~descriptor"], "CPD needs a descriptor: write descriptor=untrained_mace"),
    ],
)
def test_wrong_values_name_their_key(
    distill, capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert distill("budget=5", *arguments) == 2
    assert words in message(capfd)


def test_a_finished_selection_is_not_written_over(
    distill, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert distill("budget=5", "selector=random") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert distill("budget=6", "selector=random") == 2
    assert "run holds a finished selection: name another folder (hydra.run.dir=FOLDER" in message(capfd)
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert after == before


def test_files_of_somebody_else_are_not_written_over(
    distill, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "map.png").write_text("mine")
    assert distill("budget=5", "selector=random") == 2
    assert "run is no run folder and has map.png" in message(capfd)
    assert (tmp_path / "run" / "map.png").read_text() == "mine"


def test_a_failed_selection_is_replaced(distill, tmp_path: Path) -> None:
    assert distill("budget=21") == 2
    assert distill("budget=5", "selector=random") == 2  # the exit code is the worst of the process
    assert json.loads((tmp_path / "run" / "record.json").read_text())["status"] == "finished"


def test_a_sweep_has_a_folder_for_each_job_and_outlives_a_bad_one(distill, tmp_path: Path) -> None:
    assert distill("-m", "selector=random,full", "budget=5", "hydra.sweep.dir=sweep") == 2
    records = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/record.json")]
    assert sorted(record["status"] for record in records) == ["failed", "finished"]


def test_names_of_checkpoints_are_those_that_training_writes() -> None:
    assert f"checkpoints/{checkpoints.LAST}" == LAST
    assert f"checkpoints/{checkpoints.BEST}" in FILES


@pytest.mark.parametrize("kind", ["numbers", "names", "many", "none", "alike", "one"])
def test_map_of_any_pool(tmp_path: Path, kind: str) -> None:
    n = 1 if kind == "one" else 60
    rng = np.random.default_rng(0)
    group = {"numbers": rng.choice(["0.98", "1.40"], n), "names": rng.choice(["a", "b"], n),
             "many": np.array([f"g{i}" for i in range(n)])}.get(kind, np.full(n, ""))  # fmt: skip
    flat = kind in ("alike", "one")
    chart = PoolMap(
        frame_id=np.arange(n),
        pca=np.zeros((n, 2)) if flat else rng.normal(size=(n, 2)),
        log_density=np.full(n, np.nan) if flat else rng.normal(size=n),
        band=np.full(n, ""),
        chosen=np.arange(n) < 10,
        group=group,
    )
    save_map(chart, tmp_path / "map.png", "a pool", "density")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


def test_a_sweep_has_a_folder_by_default(
    pool_folder: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """In a process of its own: Hydra reads the sweep's folder before its own settings can be resolved."""
    words = ["pool=files", f"pool.path={pool_folder}", "selector=random,uniform", "budget=3", "~descriptor"]
    done = subprocess.run(
        [sys.executable, "-m", "msmlff.app", "distill", "-m", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/distill-sweep/*/*/selection.json"))) == 2
