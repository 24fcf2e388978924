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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from lfvd.files import InputError, atomic_path


class ClipError(ValueError):
    """A clip without usable sound or pictures; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A stretch of a media file."""

    file: Path
    start: float = 0.0
    """Seconds, on the clock of the file's timestamps."""
    end: float | None = None
    """Seconds, on the same clock; None: the file's end."""


@contextlib.contextmanager
def opened(clip: Clip, kind: Literal["audio", "video"]) -> Iterator[Any]:
    """The clip's file, at or before its start. Raises ClipError where it has nothing of the kind or cannot be decoded."""
    import av

    try:
        with av.open(str(clip.file)) as container:
            if not getattr(container.streams, kind):
                raise ClipError("has no sound" if kind == "audio" else "has no pictures")
            if clip.start:
                container.seek(int(clip.start * av.time_base))
            yield container
    except av.error.FFmpegError as error:
        raise ClipError(f"cannot be decoded ({error.strerror})") from None


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
    one. Vectors found in `parts` are not made again. Raises InputError where no clip gave a vector, OSError where parts
    cannot be written.
    """
    files, failed = _part_files(clips, extractor, parts)
    jobs = {i: (clips[i], file) for i, file in files.items() if not file.exists()}
    parts.mkdir(parents=True, exist_ok=True)
    behind = len(clips) - len(jobs)
    done(behind)
    with contextlib.closing(_outcomes(jobs, extractor, processes)) as outcomes:
        for count, (index, reason) in enumerate(outcomes, start=behind + 1):
            if reason is not None:
                failed[index] = reason
            done(count)
    if len(failed) == len(clips):
        index, reason = min(failed.items())
        raise InputError(f"{clips[index].file}: {reason}, nor did any other clip give features: check the folder")
    features = np.full((len(clips), extractor.width), np.nan, np.float32)
    for i in files.keys() - failed.keys():
        features[i] = np.load(files[i], allow_pickle=False)
    return features, failed


def _part_files(clips: Sequence[Clip], extractor: Extractor, parts: Path) -> tuple[dict[int, Path], dict[int, str]]:
    """Index → file of the part, and index → reason for clips that are not there."""
    files, failed = {}, {}
    for i, clip in enumerate(clips):
        try:
            stat = clip.file.stat()
        except OSError as error:
            failed[i] = error.strerror or str(error)
        else:
            key = repr((extractor, clip, str(clip.file.resolve()), stat.st_size, stat.st_mtime_ns))
            files[i] = parts / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.npy"
    return files, failed


def _outcomes(
    jobs: Mapping[int, tuple[Clip, Path]], extractor: Extractor, processes: int
) -> Generator[tuple[int, str | None], None, None]:
    """Index of a clip and why it gave nothing, in the order in which clips end. jobs: index → clip and its part.

    A clip whose process died is tried once more: another process's memory may have killed it. Ended early, by Ctrl-C or a
    full disk, this ends its processes: a clip may take long.
    """
    waiting, died = deque(jobs), set[int]()
    started: list[BaseProcess] = []
    idle: list[Connection] = []
    at_work: dict[Connection, int] = {}
    try:
        while waiting or at_work:
            while waiting and len(at_work) < processes:
                free = idle.pop() if idle else _start(extractor, started)
                at_work[free] = waiting.popleft()
                with contextlib.suppress(BrokenPipeError):  # it has died: `wait` finds out
                    free.send(jobs[at_work[free]])
            wait(list(at_work))
            for worker in [worker for worker in at_work if worker.poll()]:
                index = at_work.pop(worker)
                try:
                    outcome = worker.recv()
                except (EOFError, ConnectionResetError):
                    if index in died:
                        yield index, "ended its process"
                    else:
                        died.add(index)
                        waiting.append(index)
                    continue
                if isinstance(outcome, OSError):
                    raise outcome
                idle.append(worker)
                yield index, outcome
    finally:
        for process in started:
            process.terminate()


def _start(extractor: Extractor, started: list[BaseProcess]) -> Connection:
    """A new process, and the connection to it."""
    context = mp.get_context("spawn")  # a fork after torch has started its threads may hang
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(extractor, theirs))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C reaches all processes of a terminal
    try:
        process.start()
        started.append(process)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    theirs.close()
    return ours


def _work(extractor: Extractor, parent: Connection) -> None:
    """In a process of its own: clips, one after the other, until the parent ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            parent.send(_one(extractor, *parent.recv()))


def _end_with_parent() -> None:
    """A killed parent waits for no clip."""
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _one(extractor: Extractor, clip: Clip, part: Path) -> str | OSError | None:
    """Write a clip's part, or say why there is none, or that it cannot be written."""
    try:
        vector = extractor(clip)
    except ClipError as error:
        return str(error)
    except Exception as error:  # strange media raise strange errors, and one clip must not end the work of hours
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    if not np.isfinite(vector).all():
        return "gave features that are not finite"
    try:
        with atomic_path(part) as temporary, temporary.open("wb") as file:
            np.save(file, vector.astype(np.float32))
    except OSError as error:
        return error
    return None
