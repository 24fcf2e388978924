"""One driver a study: a lock that names its holder and dies with it, and what other shells ask of the driver.

`results/<name>/driver.lock` is locked (flock) for as long as the driver's process lives, whatever ends it, and holds host and
process. Where the file system's locks do not reach other hosts, a heartbeat in the file does. `results/<name>/requests/`
holds what is asked, `stop` or `prune-7`: files that any shell may add and only the driver takes away.
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

from lfvd.files import InputError

HEARTBEAT_SECONDS = 2.0
"""How often a driver's heart beats; one that no lock can be seen of is dead when four beats are missing."""


class LockedError(InputError):
    """Another driver is at work on the study; the text names its host and process."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A driver: where it runs, since when, and how often its heart has beaten."""

    host: str
    pid: int
    since: str
    beat: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def driving(folder: Path) -> Iterator[Holder | None]:
    """Hold a study; yields the last driver where it died without a word. Raises LockedError where one is at work."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "driver.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        taken = _take_lock(handle)
        last = _named(folder)
        if not taken or (last and _beats(folder, last)):
            raise LockedError(
                f"{folder}: another driver is at work on this study ({last or 'it has just begun'}): let it work, or end "
                f"it with `lfvd-tune stop {folder.name}`"
            )
        shutil.rmtree(folder / "requests", ignore_errors=True)  # asked of a driver that is no more
        with _heart(handle):
            yield last
    finally:
        os.close(handle)


def at_work(folder: Path) -> Holder | None:
    """The driver that is at work on a study now, or None."""
    named = _named(folder)
    if named is None:
        return None
    handle = os.open(folder / "driver.lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return named
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    finally:
        os.close(handle)
    return named if _beats(folder, named) else None


_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What file systems without locks answer; the heartbeat alone tells there."""


def _take_lock(handle: int) -> bool:
    """Whether the lock is ours now, or there are none."""
    for _ in range(10):  # a reader that asks whether a driver is at work holds it for a moment
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return True
        else:
            return True
    return False


def _named(folder: Path) -> Holder | None:
    """Who the file names: a driver at work or one that died without a word; None after one that ended well."""
    try:
        return Holder(**json.loads((folder / "driver.lock").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):  # none, or cut off by the death of its machine
        return None


def _beats(folder: Path, named: Holder) -> bool:
    """Whether a driver whose lock is not seen lives: on this host its process, on another its heartbeat."""
    if named.host == socket.gethostname() and not Path(f"/proc/{named.pid}").exists():
        return False
    deadline = time.monotonic() + 4 * HEARTBEAT_SECONDS
    while time.monotonic() < deadline:
        if (now := _named(folder)) != named:
            return now is not None
        time.sleep(HEARTBEAT_SECONDS / 4)
    return False


@contextmanager
def _heart(handle: int) -> Iterator[None]:
    """Write who drives, and beat in a thread; an empty file says that it ended well."""
    me = Holder(host=socket.gethostname(), pid=os.getpid(), since=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    ended = threading.Event()

    def beat(number: int) -> None:
        # In one write, at a length that only grows, so that no reader sees a part.
        os.pwrite(handle, json.dumps({**asdict(me), "beat": number}).encode(), 0)

    def work() -> None:
        number = 1
        while not ended.wait(HEARTBEAT_SECONDS):
            beat(number)
            number += 1

    os.truncate(handle, 0)
    beat(0)
    thread = threading.Thread(target=work, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        os.truncate(handle, 0)


def ask(folder: Path, request: str) -> None:
    """Ask something of the driver at work."""
    place = folder / "requests"
    place.mkdir(exist_ok=True)
    (place / request).touch()


class Requests:
    """What other shells ask of the driver of a study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "requests"
        self._seen: set[str] = set()
        self._looked = -math.inf

    def __contains__(self, request: str) -> bool:
        if time.monotonic() - self._looked > 1:  # a folder on a far disk is not asked at each epoch
            self._seen = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
            self._looked = time.monotonic()
        return request in self._seen

    def take(self, request: str) -> None:
        """Take a request away: it is done, or can no longer be."""
        self._seen.discard(request)
        (self.folder / request).unlink(missing_ok=True)
