"""One vector a clip, by several processes; finished clips outlive a kill.

Each finished vector lies in a folder of parts, under a name made of the clip (path, size, time of change, stretch) and of how
it was made, so that the same command finds it again, and a command with other options or other clips does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing as mp
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Protocol

import numpy as np

from lfvd.extract.clips import Clip, ClipError
from lfvd.files import InputError, atomic_path


class NoFeatures(InputError):
    """Not one clip gave features."""


class Extractor(Protocol):
    """A frozen dataclass, passed to each process; its repr says all that its vectors depend on beside the clip."""

    @property
    def width(self) -> int: ...

    def __call__(self, clip: Clip) -> np.ndarray:
        """The clip's vector: [width] float32. Raises ClipError where the clip does not give one."""


def extract(
    clips: Sequence[Clip], extractor: Extractor, *, parts: Path, processes: int, done: Callable[[int], None]
) -> tuple[np.ndarray, dict[int, str]]:
    """Vectors of all clips [N, width] float32, NaN where a clip gave none, and why: index → reason.

    `done` is called with the number of clips behind, failed ones included. A clip that kills its process is a failed
    one. Vectors found in `parts` are not made again. To be called from the main thread. Raises NoFeatures where no
    clip gave a vector, OSError where parts cannot be written.
    """
    names, failed = _part_names(clips, extractor)
    todo = [i for i, name in names.items() if not (parts / name).exists()]
    parts.mkdir(parents=True, exist_ok=True)
    behind = len(clips) - len(todo)
    done(behind)
    jobs = deque((i, clips[i], parts / names[i]) for i in todo)
    outcomes = _outcomes(jobs, extractor, min(processes, len(todo)))
    with contextlib.closing(outcomes):
        for index, reason in outcomes:
            if reason is not None:
                failed[index] = reason
            behind += 1
            done(behind)
    if len(failed) == len(clips):
        index, reason = min(failed.items())
        raise NoFeatures(f"{clips[index].file}: {reason}, nor did any other clip give features: check the folder")
    return _gathered(len(clips), {i: parts / name for i, name in names.items() if i not in failed}, extractor), failed


def _part_names(clips: Sequence[Clip], extractor: Extractor) -> tuple[dict[int, str], dict[int, str]]:
    """Index → name of the part, and index → reason for files that are not there."""
    names, failed = {}, {}
    for i, clip in enumerate(clips):
        try:
            stat = clip.file.stat()
        except OSError as error:
            failed[i] = error.strerror or str(error)
        else:
            key = repr((extractor, clip, str(clip.file.resolve()), stat.st_size, stat.st_mtime_ns))
            names[i] = f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.npy"
    return names, failed


def _gathered(rows: int, files: dict[int, Path], extractor: Extractor) -> np.ndarray:
    features = np.full((rows, extractor.width), np.nan, np.float32)
    for i, file in files.items():
        features[i] = np.load(file, allow_pickle=False)
    return features


Job = tuple[int, Clip, Path]
"""Index of the clip, the clip, the part to write."""
Outcomes = Generator[tuple[int, str | None], None, None]
"""Index of a clip and why it gave nothing, in the order in which clips end."""


def _outcomes(waiting: deque[Job], extractor: Extractor, processes: int) -> Outcomes:
    """Run all jobs. A process that dies breaks its whole pool: what was at work is tried again, one clip at a time.

    With one process it is plain whose clip it was; with several, even an idle one may have died.
    """
    while waiting:
        broken = yield from _in_one_pool(waiting, extractor, processes)
        if processes > 1:
            yield from _outcomes(deque(broken), extractor, 1)
        else:
            for index, *_ in broken:
                yield index, "ended its process"


def _in_one_pool(
    waiting: deque[Job], extractor: Extractor, processes: int
) -> Generator[tuple[int, str | None], None, list[Job]]:
    """Take jobs from `waiting` as processes get free, until a process dies → the jobs that were at work then.

    Ended early, by Ctrl-C or a full disk, it ends its processes: a clip may take long.
    """
    running: dict[Future[str | None], Job] = {}
    broken: list[Job] = []
    others = set(mp.active_children())
    context = mp.get_context("spawn")  # a fork after torch has started its threads may hang
    with ProcessPoolExecutor(processes, context, initializer=_end_with_parent) as pool, _terminated_early(others):
        while True:
            try:
                while waiting and not broken and len(running) < processes:
                    with _interrupts_ignored():  # inherited: Ctrl-C reaches all processes of a terminal
                        running[pool.submit(_one, extractor, *waiting[0][1:])] = waiting[0]
                    waiting.popleft()
            except BrokenProcessPool:
                pass  # the jobs at work say so too
            if not running:
                return broken
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    broken.append(job)
                else:
                    yield job[0], future.result()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _terminated_early(others: set[mp.process.BaseProcess]) -> Iterator[None]:
    """On an exception, end the processes that were started since `others`."""
    try:
        yield
    except BaseException:
        for process in set(mp.active_children()) - others:
            process.terminate()
        raise


def _end_with_parent() -> None:
    """In a process of the pool, which would outlive a parent that is killed."""
    parent = mp.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _one(extractor: Extractor, clip: Clip, part: Path) -> str | None:
    """Write a clip's part, or say why there is none. Raises OSError where it cannot be written."""
    try:
        vector = extractor(clip)
    except ClipError as error:
        return str(error)
    except Exception as error:  # strange media raise strange errors, and one clip must not end the work of hours
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    if not np.isfinite(vector).all():
        return "gave features that are not finite"
    with atomic_path(part) as temporary, temporary.open("wb") as file:
        np.save(file, vector.astype(np.float32))
    return None
