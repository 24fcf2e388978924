"""A Ray of a test's own, on loopback."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOOPBACK = "127.0.0.2"
"""Ray takes 127.0.0.1 in an address for the machine's name, and looks for the cluster at its outer address."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextmanager
def own_cluster(*, cpus: int, gpus: int = 0) -> Iterator[tuple[str, int]]:
    """A Ray of so many cores and GPUs, which are numbers only → its address, once it is up, and its process."""
    port, scratch = free_port(), tempfile.mkdtemp(prefix="r", dir="/tmp")  # short: it goes into socket names
    argv = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    argv += [f"--node-ip-address={LOOPBACK}", f"--port={port}", f"--temp-dir={scratch}", "--include-dashboard=false"]
    argv += [f"--dashboard-agent-listen-port={free_port()}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
    head = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        assert head.stdout is not None
        said: list[str] = []
        while not said or "Ray runtime started" not in said[-1]:
            said.append(head.stdout.readline())
            assert said[-1], "".join(said)
        yield f"{LOOPBACK}:{port}", head.pid
    finally:
        head.terminate()  # --block ends with all that it started
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        head.stdout.close()
        shutil.rmtree(scratch, ignore_errors=True)
