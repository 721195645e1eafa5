"""Label many frames in worker processes; a bad frame, a hang or a crash costs that frame alone."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

from msmlff.data.configuration import Configuration
from msmlff.errors import InputError
from msmlff.labeling.cache import LabelCache, judged, label_key
from msmlff.labeling.engine import Engine, LabelResult, SCFError

Progress = Callable[[int, int, LabelResult], None]
START_LIMIT = 300.0  # s, for a worker process to come up; its imports may read a slow disk
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes started inside run one thread each: their libraries read the environment when they load."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def label_one(engine: Engine, frame: Configuration) -> LabelResult:
    """Label one frame in this process; whatever the engine raises becomes a status."""
    start = time.perf_counter()
    try:
        labels = engine.label(frame)
    except SCFError as failure:
        return LabelResult("scf_failed", seconds=time.perf_counter() - start, message=str(failure))
    except Exception as failure:  # the engine may wrap any foreign code: one bad frame must not stop the run
        message = f"{type(failure).__name__}: {failure}"
        return LabelResult("error", seconds=time.perf_counter() - start, message=message)
    seconds = time.perf_counter() - start
    return LabelResult("ok", labels.energy, labels.forces, labels.stress, seconds)


def serve(engine: Engine, connection: Connection) -> None:
    """Body of a worker: say None, then answer frames until the parent hangs up (also when it was killed)."""
    try:
        connection.send(None)
        while True:
            frame = connection.recv()
            connection.send(label_one(engine, frame))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


class Worker:
    """One child process with one frame at a time."""

    def __init__(self, engine: Engine) -> None:
        context = get_context("spawn")
        self.connection, child = context.Pipe()
        self.process = context.Process(target=serve, args=(engine, child), daemon=True)
        with one_thread():
            self.process.start()
        child.close()
        self.task: int | None = None
        self.up = False
        self.started = 0.0

    def give(self, task: int, frame: Configuration) -> bool:
        """Sends a frame; False if the process is dead."""
        self.task, self.started = task, time.perf_counter()
        try:
            self.connection.send(frame)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


class Labeler:
    """Labels frames with an engine, in parallel and resumably.

    Every result is written to the cache the moment it is there: a run that was killed continues where it
    stopped, and a frame is never calculated twice under the same settings.

    Args:
        engine: what calculates the labels.
        cache: folder of the durable cache.
        processes: worker processes, one thread each.
        timeout: seconds of wall time for one frame, without the start of its worker; that is then killed and
            replaced. None waits for ever.
        max_force: eV/Å, largest plausible force component; None accepts any.
    """

    def __init__(
        self,
        engine: Engine,
        cache: Path | str,
        processes: int = 2,
        timeout: float | None = 120.0,
        max_force: float | None = 200.0,
    ) -> None:
        if processes < 1:
            raise InputError(f"labeling.processes={processes} must be at least 1")
        if timeout is not None and timeout <= 0:
            raise InputError(f"labeling.timeout={timeout} must be positive; write null for no limit")
        self.engine = engine
        self.cache = LabelCache(cache)
        self.processes = processes
        self.timeout = timeout
        self.max_force = max_force

    def label(self, frames: Sequence[Configuration], progress: Progress | None = None) -> list[LabelResult]:
        """Results in the order of ``frames``; ``progress(done, total, result)`` is called after each."""
        settings = self.engine.settings()
        keys = [label_key(frame, settings) for frame in frames]
        results: dict[int, LabelResult] = {}

        def finish(task: int, result: LabelResult) -> None:
            results[task] = judged(result, self.max_force)
            if progress is not None:
                progress(len(results), len(frames), results[task])

        first_of: dict[str, int] = {}
        copies: list[tuple[int, str]] = []
        for task, key in enumerate(keys):
            stored = self.cache.get(key)
            if stored is not None:
                finish(task, stored)
            elif key in first_of:
                copies.append((task, key))
            else:
                first_of[key] = task
        for task, result in self._calculate(frames, deque(first_of.values())):
            self.cache.put(keys[task], result)
            finish(task, result)
        for task, key in copies:
            finish(task, results[first_of[key]])
        return [results[task] for task in range(len(frames))]

    def _calculate(
        self, frames: Sequence[Configuration], queue: deque[int]
    ) -> Iterator[tuple[int, LabelResult]]:
        """Run the queue through the workers; yield (task, result) as they finish."""
        workers = [Worker(self.engine) for _ in range(min(self.processes, len(queue)))]
        try:
            while True:
                for i, worker in enumerate(workers):
                    if worker.task is None and queue:
                        task = queue.popleft()
                        if not worker.give(task, frames[task]):
                            # It died while idle. If the new one dies, too, _collect says so of the frame.
                            worker.stop()
                            workers[i] = Worker(self.engine)
                            workers[i].give(task, frames[task])
                busy = [worker for worker in workers if worker.task is not None]
                if not busy:
                    return
                wait([worker.connection for worker in busy], timeout=self._patience(busy))
                for worker in busy:
                    result = self._collect(worker)
                    if result is None or worker.task is None:
                        continue
                    yield worker.task, result
                    worker.task = None
                    if not worker.process.is_alive():
                        worker.stop()
                        workers[workers.index(worker)] = Worker(self.engine)
        finally:
            for worker in workers:
                worker.stop()

    def _patience(self, busy: list[Worker]) -> float | None:
        """Seconds until the first deadline."""
        deadlines = [w.started + limit for w in busy if (limit := self._limit(w)) is not None]
        return max(0.0, min(deadlines) - time.perf_counter()) if deadlines else None

    def _limit(self, worker: Worker) -> float | None:
        return self.timeout if worker.up else START_LIMIT

    def _collect(self, worker: Worker) -> LabelResult | None:
        """The worker's answer, its failure, or None while it is at work."""
        seconds = time.perf_counter() - worker.started
        if worker.connection.poll():
            try:
                answer = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                worker.process.join()
                message = f"the worker process died with exit code {worker.process.exitcode}"
                return LabelResult("error", seconds=seconds, message=message)
            if answer is None:  # it is up: from now on the time is the frame's
                worker.up, worker.started = True, time.perf_counter()
            return answer
        limit = self._limit(worker)
        if limit is None or seconds < limit:
            return None
        worker.process.kill()
        worker.process.join()
        if not worker.up:
            message = f"the worker process did not start within {limit:g} s"
            return LabelResult("error", seconds=seconds, message=message)
        return LabelResult("timeout", seconds=seconds, message=f"no result after {limit:g} s")
