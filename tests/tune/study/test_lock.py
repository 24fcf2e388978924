"""One driver a study: refused beside a live one, taken over from a dead one, whatever ended it."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tune.study import lock
from tune.study.lock import Holder, LockedError, Requests, hold_lock, holder_at_work, request

HOLD = """
import sys
from pathlib import Path
from tune.study.lock import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("holding", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that drives the study in `tmp_path`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "holding\n"
        yield process
        process.kill()


def test_a_second_driver_is_refused(tmp_path, other):
    with pytest.raises(LockedError) as error, hold_lock(tmp_path):
        pass
    since = json.loads((tmp_path / "driver.lock").read_text())["since"]
    assert str(error.value) == (
        f"{tmp_path}: another driver is at work on this study (process {other.pid} on {socket.gethostname()}, since "
        f"{since}): let it work, or end it with `lfvd-tune stop {tmp_path.name}`"
    )
    assert holder_at_work(tmp_path).pid == other.pid


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_driver_is_followed(tmp_path, other, end, monkeypatch):
    """Without waiting for a heartbeat, and the next one learns that it died without a word."""
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 600)
    other.send_signal(end)
    other.wait()
    assert holder_at_work(tmp_path) is None
    with hold_lock(tmp_path) as last:
        assert (last.host, last.pid) == (socket.gethostname(), other.pid)
        assert holder_at_work(tmp_path).pid == os.getpid()
    assert holder_at_work(tmp_path) is None


def test_one_that_ended_well_leaves_nothing(tmp_path):
    with hold_lock(tmp_path) as last:
        assert last is None
    with hold_lock(tmp_path) as last:
        assert last is None


def test_a_reader_does_not_disturb(tmp_path, monkeypatch):
    """Asking who is at work takes the lock for a moment; a driver that begins just then waits for that moment."""
    (tmp_path / "driver.lock").write_text(json.dumps({"host": "h", "pid": 1, "since": "t", "beat": 0}))
    handle = os.open(tmp_path / "driver.lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_SH)
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.1)
    sleep, reading = time.sleep, [handle]

    def finish_reading(seconds: float) -> None:
        """Called where filelock waits before it tries again."""
        while reading:
            os.close(reading.pop())
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", finish_reading)
    with hold_lock(tmp_path) as last:
        assert last == Holder(host="h", pid=1, since="t")
    assert not reading, "it had to wait"


def test_readers_do_not_see_each_other(tmp_path, other):
    """Where another reader asks at the same moment, a dead session is still seen as dead."""
    other.kill()
    other.wait()
    with (tmp_path / "driver.lock").open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert holder_at_work(tmp_path) is None


@pytest.fixture(params=["ENOLCK", "ENOTSUP", "ENOSYS"])
def no_locks(request, monkeypatch):
    """A file system without locks; hearts beat fast."""

    def refuse(handle: int, kind: int) -> None:
        raise OSError(getattr(errno, request.param), "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.1)


def elsewhere(path: Path, beat: int) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"host": "far", "pid": 7, "since": "2026-01-01T00:00:00+0000", "beat": beat}))
    new.replace(path)  # no reader sees a part


def test_a_heart_that_beats_on_another_host(tmp_path, no_locks):
    """Where no lock reaches from host to host, the beat tells a living driver from a dead one."""
    path, stop = tmp_path / "driver.lock", threading.Event()
    elsewhere(path, 0)

    def beat() -> None:
        number = 0
        while not stop.wait(0.05):
            number += 1
            elsewhere(path, number)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert holder_at_work(tmp_path).host == "far"
        with pytest.raises(LockedError, match="process 7 on far, since 2026-01-01"), hold_lock(tmp_path):
            pass
    finally:
        stop.set()
        thread.join()
    assert holder_at_work(tmp_path) is None
    with hold_lock(tmp_path) as last:
        assert last.host == "far"


def test_without_locks_on_one_host(tmp_path, no_locks):
    with hold_lock(tmp_path):
        assert holder_at_work(tmp_path).pid == os.getpid()
        with pytest.raises(LockedError), hold_lock(tmp_path):
            pass
    with hold_lock(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", '{"host": "h"}', "\0\0\0", "[]"])
def test_a_lock_that_a_power_cut_damaged(tmp_path, text):
    (tmp_path / "driver.lock").write_text(text)
    with hold_lock(tmp_path) as last:
        assert last is None
        assert holder_at_work(tmp_path).pid == os.getpid()


def test_requests(tmp_path, monkeypatch):
    request(tmp_path, "stop")
    with hold_lock(tmp_path):
        requests = Requests(tmp_path)
        assert "stop" not in requests, "asked of an earlier driver"
        request(tmp_path, "prune-7")
        requests = Requests(tmp_path)
        assert "prune-7" in requests
        requests.remove("prune-7")
        assert "prune-7" not in requests
        assert "prune-7" not in Requests(tmp_path)
        requests.remove("prune-7")
