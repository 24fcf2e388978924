"""One vector a clip, by several processes; finished clips outlive a kill.

Each finished vector lies in a folder of parts, under a name made of the clip (path, size, time of change, stretch) and of how
it was made, so that the same command finds it again, and a command with other options or other clips does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing as mp
import signal
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
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
    jobs = [(i, clips[i], parts / names[i]) for i in todo]
    with contextlib.closing(_answers(jobs, extractor, min(processes, len(jobs)))) as answers:
        for index, reason in answers:
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
Answer = tuple[int, str | None]
"""Index of the clip, and why it gave nothing."""


@dataclass(kw_only=True)
class _Worker:
    """A process and the clip that it is at."""

    process: mp.process.BaseProcess
    connection: Connection
    index: int = field(default=-1)

    @classmethod
    def start(cls, extractor: Extractor) -> _Worker:
        context = mp.get_context("spawn")  # a fork after torch has started its threads may hang
        connection, other = context.Pipe()
        process = context.Process(target=_work, args=(other, extractor), daemon=True)
        # Ctrl-C reaches all processes of a terminal: this one stops the others, which inherit that they ignore it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        process.start()
        signal.signal(signal.SIGINT, before)
        other.close()
        return cls(process=process, connection=connection)

    def give(self, job: Job) -> None:
        self.index = job[0]
        with contextlib.suppress(ConnectionError):  # a dead process is found by `answer`
            self.connection.send(job)

    def answer(self) -> Answer:
        """What came of the clip; the death of the process is an answer too. Raises OSError where no part can be written."""
        try:
            reply: str | OSError | None = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            reply = f"ended its process (exit code {self.process.exitcode})"
        if isinstance(reply, OSError):
            raise reply
        return self.index, reply

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _answers(jobs: Sequence[Job], extractor: Extractor, processes: int) -> Generator[Answer, None, None]:
    """The answer of each job, in the order in which they end; a process that died is replaced."""
    waiting = list(reversed(jobs))
    workers = [_Worker.start(extractor) for _ in range(processes)]
    try:
        for worker in workers:
            worker.give(waiting.pop())
        while workers:
            ready = wait([worker.connection for worker in workers])
            for worker in [w for w in workers if w.connection in ready]:
                yield worker.answer()
                if waiting and not worker.process.is_alive():
                    workers[workers.index(worker)] = worker = _Worker.start(extractor)
                if waiting:
                    worker.give(waiting.pop())
                else:
                    worker.stop()
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.stop()


def _work(connection: Connection, extractor: Extractor) -> None:
    """The life of a process: clips in, parts written, reasons out, until the other side is gone."""
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            _, clip, part = connection.recv()
            try:
                reply: str | OSError | None = _one(extractor, clip, part)
            except OSError as error:
                reply = error
            connection.send(reply)


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
