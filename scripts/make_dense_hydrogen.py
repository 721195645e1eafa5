"""Make the embedded pool ``dense_hydrogen``.

Sample, label, train, simulate, again until the MD is stable; then produce, label, check and write.

    python scripts/make_dense_hydrogen.py --workdir work/dense_hydrogen --out msmlff/data/pools/dense_hydrogen

Every stage leaves its result in the working folder and is skipped when it is there; labels are cached one by
one, so a killed run continues where it stopped. All random numbers are seeded.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from dense_hydrogen_md import (
    Task,
    Trajectory,
    force_errors,
    load_trajectories,
    save_trajectories,
    simulate,
    train,
)
from dense_hydrogen_plan import Plan, lattice_start, packing_start, seed_frames
from dense_hydrogen_ship import ship

from msmlff.analysis.pairs import min_pair_distance
from msmlff.data.configuration import Configuration
from msmlff.labeling import Labeler, LabelResult, XTBEngine, with_labels
from msmlff.simulation import NVT, Limits, MDSettings

EXPLORE_EVERY_FS = 10.0
FIRST_LABELS, LATER_LABELS = 2, 1  # frames labelled per replica in the first and in later rounds
MAX_ATTEMPTS = 4


class Maker:
    """The stages, in order; each method is one."""

    def __init__(self, plan: Plan, workdir: Path, processes: int) -> None:
        self.plan, self.workdir, self.processes = plan, workdir, processes
        workdir.mkdir(parents=True, exist_ok=True)
        self.engine = XTBEngine(electronic_temperature=plan.electronic_temperature)
        self.labeler = Labeler(self.engine, workdir / "labels", processes, timeout=300.0, max_force=100.0)
        self.counts: dict[str, Counter[str]] = {}

    def label(self, stage: str, frames: Sequence[Configuration]) -> list[LabelResult]:
        """Label, with a line of progress now and then; statuses are counted under ``stage``."""
        start = time.perf_counter()

        def progress(done: int, total: int, result: LabelResult) -> None:
            if done % 20 == 0 or done == total or not result.ok:
                seconds = time.perf_counter() - start
                print(f"  {stage}: {done}/{total} labelled, {seconds:.0f} s {result.message}", flush=True)

        results = self.labeler.label(frames, progress)
        self.counts.setdefault(stage, Counter()).update(r.status for r in results)
        return results

    def seeds(self) -> list[Configuration]:
        """Labelled seed frames."""
        frames = seed_frames(self.plan)
        results = self.label("seeds", frames)
        return [with_labels(f, r) for f, r in zip(frames, results, strict=True) if r.ok]

    def atom_energy(self) -> float:
        """eV, energy of an isolated hydrogen atom with the pool's method."""
        atom = Configuration(np.array([1]), np.zeros((1, 3)))
        return replace(self.engine, uhf=1).label(atom).energy

    def starts(self, attempt: int = 0) -> list[Configuration]:
        """Two starting frames per density: a lattice, then a packing; other ones for each attempt."""
        frames = []
        for d, density in enumerate(self.plan.densities):
            seed = 100_000 * (attempt + 1) + 1000 * d
            frames.append(lattice_start(self.plan, density, 0.05, seed))
            frames.append(packing_start(self.plan, density, 0.9, seed + 1))
        return frames

    def explore(self) -> Path:
        """Rounds of training, MD and labelling; the last model."""
        plan = self.plan
        labelled, e0 = self.seeds(), self.atom_energy()
        model: Path | None = None
        states = self.starts()
        for r, length in enumerate(plan.round_fs):
            folder = self.workdir / f"round{r}"
            folder.mkdir(exist_ok=True)
            model = train(labelled, plan, e0, model, folder, seed=r)
            trajectories = self._round_md(folder, model, states, length, r)
            visited = [f for t in trajectories for f in chosen(t, plan, LATER_LABELS if r else FIRST_LABELS)]
            results = self.label(f"round {r}", visited)
            new = [with_labels(f, s) for f, s in zip(visited, results, strict=True) if s.ok]
            failed = sum(bool(t.failed) for t in trajectories)
            errors = force_errors(model, new)
            print(f"round {r}: {failed} of {len(states)} replicas failed; {len(new)} new frames: {errors}")
            (folder / "summary.json").write_text(json.dumps({"failed": failed, "new": len(new), **errors}))
            labelled += [replace(f, weight=1.0) for f in new]
            # seeds teach what to avoid; once there are frames of the MD they should not rule the loss
            labelled = [replace(f, weight=0.2) if f.info["stage"] == "seed" else f for f in labelled]
            fresh = self.starts(attempt=r + 1)
            states = [
                t.snapshots[-1] if not t.failed else other
                for t, other in zip(trajectories, fresh, strict=True)
            ]
            if failed == 0 and errors["ratio"] < plan.target and r > 0:
                break
        if failed:
            raise SystemExit(
                f"{failed} of {len(states)} replicas still fail after {len(plan.round_fs)} rounds: the MD is "
                "not stable at every density; give Plan.round_fs more rounds and start again"
            )
        folder = self.workdir / "final"
        folder.mkdir(exist_ok=True)
        return train(labelled, plan, e0, model, folder, seed=99)

    def _round_md(
        self, folder: Path, model: Path, states: list[Configuration], length: float, r: int
    ) -> list[Trajectory]:
        path = folder / "trajectories.json"
        if not path.exists():
            starts = [
                replace(f, info={**f.info, "stage": "exploration", "trajectory": f"explore{r}-{k}"})
                for k, f in enumerate(states)
            ]
            every = max(1, round(EXPLORE_EVERY_FS / self.plan.timestep_fs))
            count = max(1, round(length / self.plan.timestep_fs / every))
            ensemble, settings = langevin(self.plan.explore_friction), self.settings(seed=r, hot=10.0)
            task = Task(str(model), starts, list(range(len(starts))), ensemble, settings, 0, every, count)
            save_trajectories(path, timed(f"round {r} MD", task, self.processes))
        return load_trajectories(path)

    def settings(self, seed: int, hot: float) -> MDSettings:
        plan = self.plan
        return MDSettings(
            timestep_fs=plan.timestep_fs,
            temperature=plan.temperature,
            seed=seed,
            limits=Limits(min_distance=plan.min_distance, max_temperature=hot * plan.temperature),
        )

    def produce(self, model: Path) -> dict[str, list[Trajectory]]:
        """One trajectory a density and split, each from a fresh start; failed ones are started again.

        The explorations are not gone on with: what earlier, worse models drove them into may last.
        """
        fresh = [self.starts(attempt=50 + number) for number in range(len(self.plan.splits))]
        out = {}
        for number, split in enumerate(self.plan.splits):
            path = self.workdir / f"production-{split}.json"
            if not path.exists():
                # atoms packed at random for the pool, lattices of molecules for the others
                origin = fresh[number][1::2] if split == "pool" else fresh[number][0::2]
                save_trajectories(path, self._produce_split(model, origin, split, number))
            out[split] = load_trajectories(path)
        return out

    def _produce_split(
        self, model: Path, origin: list[Configuration], split: str, number: int
    ) -> list[Trajectory]:
        plan = self.plan
        starts = [
            replace(f, info={**f.info, "stage": split, "trajectory": f"{f.group}-{split}"}) for f in origin
        ]
        done: dict[int, Trajectory] = {}
        every = max(1, round(plan.spacing_fs / plan.timestep_fs))
        skip = max(0, round(plan.equilibration_fs / plan.timestep_fs) - every)
        for attempt in range(MAX_ATTEMPTS):
            left = [k for k in range(len(starts)) if k not in done]
            settings = self.settings(seed=1000 + 10 * number + attempt, hot=5.0)
            task = Task(
                str(model),
                [starts[k] for k in left],
                left,
                langevin(plan.friction),
                settings,
                skip,
                every,
                plan.splits[split] + plan.spares,
            )
            trajectories = timed(f"{split} MD, attempt {attempt}", task, self.processes)
            done.update({k: t for k, t in zip(left, trajectories, strict=True) if not t.failed})
            self.counts.setdefault("failed replicas", Counter())[split] += len(starts) - len(done)
            if len(done) == len(starts):
                return [done[k] for k in range(len(starts))]
        raise SystemExit(f"{split}: some trajectories fail with every seed; the model needs more rounds")

    def label_production(self, trajectories: dict[str, list[Trajectory]]) -> dict[str, list[Configuration]]:
        """The labelled frames of each split; a frame that cannot be labelled is replaced by the next spare
        one.
        """
        out = {}
        for split, count in self.plan.splits.items():
            kept: dict[int, list[Configuration]] = {k: [] for k in range(len(trajectories[split]))}
            tried = dict.fromkeys(kept, 0)
            while any(len(kept[k]) < count for k in kept):
                wanted = {k: count - len(kept[k]) for k in kept}
                batch = []
                for k, t in enumerate(trajectories[split]):
                    part = t.snapshots[tried[k] : tried[k] + wanted[k]]
                    if len(part) < wanted[k]:
                        raise SystemExit(
                            f"{split}: no spare frames are left at density {t.snapshots[0].group}"
                        )
                    tried[k] += wanted[k]
                    batch += [(k, f) for f in part]
                results = self.label(split, [f for _, f in batch])
                for (k, frame), result in zip(batch, results, strict=True):
                    if result.ok:
                        kept[k].append(with_labels(frame, result))
            out[split] = [f for k in kept for f in kept[k]]
        return out


def langevin(friction: float) -> NVT:
    """BAOAB of a friction in 1/fs."""
    return NVT(thermostat="langevin", thermostat_time=1.0 / friction)


def chosen(trajectory: Trajectory, plan: Plan, count: int) -> list[Configuration]:
    """The snapshots of an exploration replica worth a label: its last plausible one, and evenly spread
    ones before.
    """
    if not trajectory.snapshots:
        return []
    distances = min_pair_distance(trajectory.snapshots)
    good = [f for f, d in zip(trajectory.snapshots, distances, strict=True) if d >= plan.min_distance]
    picks = np.linspace(0, len(good) - 1, count + 1).round().astype(int)[1:]
    return [good[i] for i in dict.fromkeys(picks.tolist())] if good else []


def timed(name: str, task: Task, processes: int) -> list[Trajectory]:
    """Run the MD and print what it took."""
    start = time.perf_counter()
    trajectories = simulate(task, processes)
    seconds = time.perf_counter() - start
    failed = [t for t in trajectories if t.failed]
    print(f"{name}: {len(trajectories)} replicas, {seconds:.0f} s, {len(failed)} failed", flush=True)
    for t in failed:
        group = t.snapshots[0].group if t.snapshots else "?"
        print(f"  density {group}: {t.failed} at {t.failed_fs:.1f} fs", flush=True)
    return trajectories


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of intermediate results")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished pool")
    parser.add_argument("--pictures", type=Path, help="folder of the pictures of the data card page")
    parser.add_argument(
        "--processes", type=int, default=2, help="processes of MD and labelling, one thread each"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny run that shows the road is open")
    parser.add_argument("--note", action="append", default=[], help="a remark for the data card")
    args = parser.parse_args()
    plan = Plan.quick() if args.quick else Plan()
    maker = Maker(plan, args.workdir, args.processes)
    model = maker.explore()
    splits = maker.label_production(maker.produce(model))
    history = {
        "notes": args.note,
        "plan": asdict(plan),
        "label_statuses": {stage: dict(counter) for stage, counter in maker.counts.items()},
        "rounds": [json.loads(p.read_text()) for p in sorted(args.workdir.glob("round*/summary.json"))],
        "engine": maker.engine.settings(),
        "e0_H_eV": maker.atom_energy(),
        "model_on_pool": force_errors(model, splits["pool"]),
    }
    ship(splits, history, args.out, args.pictures, strict=not args.quick)


if __name__ == "__main__":
    main()
