"""One session a study: a lock that names its holder and ends with it, and requests from other shells.

`driver.lock` is locked (filelock, flock) as long as the session's process lives, and holds host, process and a heartbeat. The
heartbeat decides where the file system's locks do not reach other hosts. `requests/` holds `stop` or `prune-7`: files that any
shell may add and only the session removes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lfvd.files import InputError

HEARTBEAT_SECONDS = 2.0
"""Time between heartbeats; a holder whose lock cannot be seen is dead when four are missing."""

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What file systems without locks answer; the heartbeat alone decides there."""


class LockedError(InputError):
    """Another session is at work on the study; the text names its host and process."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A session: its host and process, its start, and its number of heartbeats."""

    host: str
    pid: int
    since: str
    beat: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def hold_lock(folder: Path) -> Iterator[Holder | None]:
    """Hold a study; yields the last holder where it died without a word. Raises LockedError where one is at work."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "driver.lock", thread_local=False, fallback_to_soft=False)
    try:
        free = _acquire(lock, timeout=1)  # a reader that asks who is at work holds it for a moment
        last = _holder(folder)
        if not free or (last and _is_alive(folder, last)):
            raise LockedError(
                f"{folder}: another driver is at work on this study ({last or 'it has just begun'}): let it work, or end "
                f"it with `lfvd-tune stop {folder.name}`"
            )
        shutil.rmtree(folder / "requests", ignore_errors=True)  # meant for a session that has ended
        with _heartbeat(folder / "driver.lock"):
            yield last
    finally:
        lock.release()


def holder_at_work(folder: Path) -> Holder | None:
    """The session at work on a study now, or None."""
    holder = _holder(folder)
    if holder is None:
        return None
    with (folder / "driver.lock").open("r+b") as file:
        try:
            # Shared: two readers must not take each other for a session.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return holder
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    return holder if _is_alive(folder, holder) else None


def _acquire(lock: FileLock, timeout: float) -> bool:
    """Whether the lock is ours now, or there are none."""
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def _holder(folder: Path) -> Holder | None:
    """The holder that the file names: at work, or dead without a word; None after one that ended well."""
    try:
        return Holder(**json.loads((folder / "driver.lock").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):  # none, or cut off by the death of its machine
        return None


def _is_alive(folder: Path, holder: Holder) -> bool:
    """Whether a holder whose lock is not seen is alive: on this host by its process, on another by its heartbeat."""
    if holder.host == socket.gethostname() and not Path(f"/proc/{holder.pid}").exists():
        return False
    deadline = time.monotonic() + 4 * HEARTBEAT_SECONDS
    while time.monotonic() < deadline:
        if (now := _holder(folder)) != holder:
            return now is not None
        time.sleep(HEARTBEAT_SECONDS / 4)
    return False


@contextmanager
def _heartbeat(file: Path) -> Iterator[None]:
    """Name this process in the file and count in a thread; an empty file means that it ended well."""
    holder = Holder(host=socket.gethostname(), pid=os.getpid(), since=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    ended = threading.Event()
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)

    def beat(number: int) -> None:
        # In one write, at a length that only grows, so that no reader sees a part.
        os.pwrite(handle, json.dumps({**asdict(holder), "beat": number}).encode(), 0)

    def count() -> None:
        number = 1
        while not ended.wait(HEARTBEAT_SECONDS):
            beat(number)
            number += 1

    os.truncate(handle, 0)
    beat(0)
    thread = threading.Thread(target=count, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        os.truncate(handle, 0)
        os.close(handle)


def request(folder: Path, name: str) -> None:
    """Ask the session at work to `stop`, or to `prune-7`."""
    place = folder / "requests"
    place.mkdir(exist_ok=True)
    (place / name).touch()


class Requests:
    """What other shells ask of the session of a study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "requests"
        self._names: set[str] = set()
        self._read = -math.inf

    def __contains__(self, name: str) -> bool:
        if time.monotonic() - self._read > 1:  # a folder on a far disk is not read at each epoch
            self._names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
            self._read = time.monotonic()
        return name in self._names

    def remove(self, name: str) -> None:
        """Remove a request that is done, or can no longer be."""
        self._names.discard(name)
        (self.folder / name).unlink(missing_ok=True)
