"""msmlff compare as a command: cells, page, resuming, failures, other settings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Compare = Callable[..., subprocess.CompletedProcess[str]]
RIDGE = ["learner.cutoff=4.0", "learner.channels=3", "learner.l_max=1"]
NETWORK = [
    "learner=network", "learner.model.scales=[{cutoff: 3.2, channels: 4, l_max: 1, radial_mlp: [8]}]",
    "learner.model.channels=4", "learner.model.correlation=2", "learner.training.steps=12",
    "learner.training.validations=2", "learner.training.schedule.warmup_steps=2",
]  # fmt: skip
DESCRIPTOR = ["descriptor.channels=4", "descriptor.layers=1"]
SMALL = [
    "budgets=[4,8]", "init_seeds=[1]",
    "selection_seed=1,2", "hydra.sweep.dir=comparison", "hydra.launcher.n_jobs=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def compare(
    pool_folder: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Compare, Path]:
    """Run ``msmlff compare`` in a folder; the folder of the comparison."""
    folder = tmp_path_factory.mktemp("compare")

    def run(
        *arguments: str, learner: Sequence[str] = RIDGE, descriptor: Sequence[str] = DESCRIPTOR
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "msmlff.app", "compare", "pool=files", f"pool.path={pool_folder}"]
        return subprocess.run(
            [*command, *SMALL, *descriptor, *learner, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run, folder / "comparison"


@pytest.fixture(scope="module")
def finished(compare: tuple[Compare, Path]) -> Path:
    """A comparison of four selectors, one of which cannot do what is asked."""
    run, folder = compare
    done = run("selector=full,random,fps,kmeans,committee")
    assert done.returncode == 0, done.stderr
    assert "fps, seed 2: 2 cells" in done.stdout
    return folder


def cells(folder: Path) -> dict[str, dict]:
    return {path.name: json.loads(path.read_text()) for path in (folder / "cells").glob("*.json")}


def test_every_cell_has_errors_and_where_it_comes_from(finished: Path) -> None:
    found = cells(finished)
    assert len(found) == 1 + 4 * 2 * 2
    cell = found["fps-b8-s2-i1.json"]
    assert (cell["status"], cell["frames"], cell["atoms"]) == ("finished", 8, 64)
    assert cell["errors"]["force_rmse"] > 0
    assert set(cell["groups"]) == {"g0", "g1", "g2"}
    assert cell["coverage"]["environments_share"] > 0
    assert not cell["label_aware"]
    assert found["full-ball-s1-i1.json"]["frames"] == 20


def test_nested_selectors_choose_beginnings_of_one_order(finished: Path) -> None:
    """One 90 % of the pool a seed, the same for all selectors and budgets."""
    found = cells(finished)
    hashes = {name: cell.get("selection_hash") for name, cell in found.items()}
    assert hashes["fps-b4-s1-i1.json"] != hashes["fps-b4-s2-i1.json"]


def test_what_cannot_be_done_is_a_failure_in_the_table(finished: Path) -> None:
    failed = [cell for cell in cells(finished).values() if cell["selector"] == "committee"]
    assert [cell["status"] for cell in failed] == ["failed"] * 4
    assert "descriptor=committee" in failed[0]["message"]
    page = (finished / "comparison.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| committee"))
    assert "4 of 4" in row


def test_the_page_has_its_pictures(finished: Path) -> None:
    page = (finished / "comparison.md").read_text()
    assert "| fps |" in page
    for name in ("error_forces.png", "auc.png"):
        assert f"({name})" in page
        assert (finished / name).stat().st_size > 10_000
    assert "data:image/png;base64" in (finished / "comparison.html").read_text()


def test_finished_cells_are_skipped_and_missing_ones_made(
    compare: tuple[Compare, Path], finished: Path
) -> None:
    run, folder = compare
    paths = sorted((folder / "cells").glob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in paths}
    lost = folder / "cells" / "kmeans-b4-s1-i1.json"
    content = json.loads(lost.read_text())
    lost.unlink()
    done = run("selector=full,random,fps,kmeans,committee")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" cells in ") == 3  # the lost one, and the failed ones of two seeds again
    again = json.loads(lost.read_text())
    assert again["errors"] == content["errors"]
    changed = {p.name for p in paths if p.stat().st_mtime_ns != before[p]}
    assert {name for name in changed if not name.startswith("committee")} == {lost.name}


def test_a_variation_has_a_name_of_its_own(compare: tuple[Compare, Path], finished: Path) -> None:
    run, folder = compare
    done = run("selector=fps", "selector.start=centre", "selector.pooling=mean")
    assert done.returncode == 0, done.stderr
    labels = {cell["selector"] for cell in cells(folder).values()}
    assert "fps pooling=mean start=centre" in labels


def test_another_setting_needs_another_folder(compare: tuple[Compare, Path], finished: Path) -> None:
    run, folder = compare
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    done = run("selector=random", "learner.channels=4")
    assert done.returncode == 2
    assert "learner.channels=4 (there: 3)" in done.stderr
    assert "hydra.sweep.dir=FOLDER" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["selector=fpz"], "fps"),
        (["budget=3"], "budgets"),
        (["learner=linear"], "random_ace"),
        (["budgets=[]"], "[25, 50, 100]"),
        (["budgets=[4,0]"], "budget=0: write a number of frames from 1 upwards"),
        (["budgets=[4,4]"], "different numbers"),
        (["init_seeds=[-1]"], "init_seeds=[-1]: write a list"),
        (["subpool=1.5"], "subpool=1.5"),
        (["budgets=[4,19]"], "budgets=[4, 19]: subpool=0.9 of the pool's 20 training frames gives 18 frames"),
        (["budgets=[145]", "unit=atoms"], "write budgets up to 144"),
        (["budgets=[1.5]", "unit=cost", "cost_exponent=1"], "write budgets up to 1.44"),
        (["hydra/launcher=submitit_slurm"], "pip install 'msmlff[slurm]'"),
        (["learner.channels=2,4"], "hydra.sweep.dir=FOLDER"),
        (["learner.energy_weight=0"], "learner.energy_weight=0"),
    ],
)
def test_mistyped_words_say_what_exists(
    compare: tuple[Compare, Path], arguments: list[str], message: str
) -> None:
    run, folder = compare
    done = run("selector=random", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder.parent / "other").exists()


def test_what_all_jobs_need_is_looked_at_before_they_start(
    compare: tuple[Compare, Path], pool_folder: Path
) -> None:
    run, folder = compare
    other = folder.parent / "early"
    no_val = [f"pool.path={pool_folder / 'pool.extxyz'}", "pool.fractions={val: 0, test: 0}"]
    done = run("selector=random", *no_val, f"hydra.sweep.dir={other}")
    assert done.returncode == 2
    assert "needs val and test frames" in done.stderr
    no_file = ["descriptor=mace_checkpoint", "descriptor.path=absent.model"]
    done = run("selector=random", f"hydra.sweep.dir={other}", descriptor=no_file)
    assert done.returncode == 2
    assert "absent.model" in done.stderr
    done = run("selector=random", "~descriptor", f"hydra.sweep.dir={other}", descriptor=())
    assert done.returncode == 2
    assert "a comparison needs a descriptor" in done.stderr
    assert "Traceback" not in done.stderr
    assert not other.exists()


def test_other_frames_need_another_folder(compare: tuple[Compare, Path], finished: Path) -> None:
    """The same settings, but a file of the pool was changed."""
    run, folder = compare
    settings = folder / "settings.json"
    before = settings.read_text()
    content = json.loads(before)
    assert len(content["settings"]["train frames"]) > 20
    content["settings"]["train frames"] = "0" * 64
    settings.write_text(json.dumps(content))
    done = run("selector=random")
    settings.write_text(before)
    assert done.returncode == 2
    assert "train frames=" in done.stderr
    assert "hydra.sweep.dir=FOLDER" in done.stderr


def test_every_command_is_recorded(compare: tuple[Compare, Path], finished: Path) -> None:
    _, folder = compare
    commands = json.loads((folder / "settings.json").read_text())["commands"]
    assert any("selector=full,random,fps,kmeans,committee" in command for command in commands)


def test_wrong_settings_of_one_selector_stop_that_one_alone(compare: tuple[Compare, Path]) -> None:
    run, folder = compare
    other = folder.parent / "wrong"
    done = run("selector=cpd", "selector.central=2.0", "budgets=[4]", f"hydra.sweep.dir={other}")
    assert done.returncode == 1, done.stderr
    found = list(cells(other).values())
    assert [cell["status"] for cell in found] == ["failed"] * 2
    assert "selector.central" in found[0]["message"]


def test_budgets_of_label_cost(compare: tuple[Compare, Path]) -> None:
    run, folder = compare
    other = folder.parent / "cost"
    done = run(
        "selector=random,fps",
        "unit=cost",
        "cost_exponent=1",
        "budgets=[0.5,0.25]",
        f"hydra.sweep.dir={other}",
    )
    assert done.returncode == 0, done.stderr
    assert {(c["budget"], c["frames"]) for c in cells(other).values()} == {(0.5, 6), (0.25, 3)}
    assert "| 0.25 | 0.5 |" in (other / "comparison.md").read_text()


def test_a_network_learns_too(compare: tuple[Compare, Path]) -> None:
    run, folder = compare
    other = folder.parent / "network"
    done = run(
        "selector=random",
        "selection_seed=1",
        "budgets=[6]",
        f"hydra.sweep.dir={other}",
        learner=NETWORK,
    )
    assert done.returncode == 0, done.stderr
    (cell,) = cells(other).values()
    assert (cell["status"], cell["frames"]) == ("finished", 6)
    assert cell["errors"]["stress_rmse"] > 0
    assert "score" not in done.stdout  # the table of a training run would bury the lines of the jobs
