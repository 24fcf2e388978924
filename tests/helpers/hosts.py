"""Several hosts on one machine: each with its own network, processes, name and disk, on a switch that can be unplugged.

    with Network() as network:
        head, other = network.add("head"), network.add("other")
        head.ray_start(cpus=2)
        other.ray_start(head=head)
        head.run(["lfvd-tune", "search", …, "--address", head.ray_address])
        other.unplug()

A host is a set of Linux namespaces that live as long as the first process in them, which reads from a pipe of this process:
however the tests end, nothing stays of it but a folder. The switch is a bridge in a namespace of its own, so neither this
machine's network nor another such network is touched. Needs root and iproute2.
"""

import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

T = TypeVar("T")

COMMANDS = Path(sys.executable).parent

HEALTH = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "3",
}
"""The head asks a node for a sign of life, waits for it, and asks again after a pause; a node that failed thrice in a row is
given up: at most 3 x (1 + 1.5) s after its last sign. Ray's defaults take over a minute."""


def lacking() -> str:
    """What this machine lacks for such hosts, in words; empty where nothing."""
    if os.geteuid() != 0:
        return "making hosts of namespaces needs root"
    if lost := [tool for tool in ("ip", "unshare", "nsenter", "pgrep") if shutil.which(tool) is None]:
        return f"making hosts of namespaces needs {', '.join(lost)}"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "true"], capture_output=True, text=True, timeout=30)
    return f"namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else ""


def until(true: Callable[[], T], seconds: float, otherwise: Callable[[], object] | str) -> T:
    """Wait until something is true and return it; fails after `seconds`, showing `otherwise`."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, otherwise if isinstance(otherwise, str) else otherwise()
        time.sleep(0.1)
    return value


class Space:
    """Namespaces, and the first process in them: they end with it, and it ends when this process does."""

    def __init__(self) -> None:
        # Bash, since it takes in the others' orphans.
        argv = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "bash", "-c", "read"]
        self.parent = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)
        children = Path(f"/proc/{self.parent.pid}/task/{self.parent.pid}/children")
        self.first = int(until(children.read_text, 10, "there are no namespaces"))
        until(lambda: Path(f"/proc/{self.first}/comm").read_text() == "bash\n", 10, "the namespaces have no process")

    def inside(self, *argv: object) -> list[str]:
        """The command line that runs a command inside."""
        spaces = ["--net", "--uts", "--mount", "--pid"]
        return ["nsenter", f"--target={self.first}", *spaces, "--", *map(str, argv)]

    def ip(self, command: str) -> None:
        """Run an `ip` command on the network inside."""
        argv = ["nsenter", f"--target={self.first}", "--net", "--", "ip", *command.split()]
        subprocess.run(argv, check=True, timeout=30)

    @property
    def lives(self) -> bool:
        return self.parent.poll() is None

    def end(self) -> None:
        """SIGKILL to all processes inside; returns when they are gone."""
        if not self.lives:
            return
        gone = os.pidfd_open(self.first)
        self.parent.kill()
        os.kill(self.first, signal.SIGKILL)  # it takes all others along
        assert select.select([gone], [], [], 30)[0], "a process does not die"
        os.close(gone)
        self.parent.communicate(timeout=30)


class Network:
    """A switch with its hosts, a folder `shared` that all of them see, and the token of their Ray cluster."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="n", dir="/tmp"))  # short: it goes into socket names
        self.shared, self.disk = self.folder / "shared", self.folder / "d"
        self.shared.mkdir()
        self.disk.mkdir()
        self.token = secrets.token_hex(32)
        self.hosts: list[Host] = []
        self.spaces: list[Space] = []
        self.switch = self.space()
        self.switch.ip("link add br0 type bridge")
        self.switch.ip("link set br0 up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for space in self.spaces:
            space.end()
        shutil.rmtree(self.folder)

    def space(self) -> Space:
        """Namespaces that end with the network."""
        self.spaces.append(Space())
        return self.spaces[-1]

    def add(self, name: str) -> "Host":
        """One more host."""
        self.hosts.append(Host(self, name, number=len(self.hosts) + 1))
        return self.hosts[-1]


class Host:
    """A machine. Its own disk is `folder` seen from outside, and `disk` inside: the same path on each host."""

    def __init__(self, network: Network, name: str, *, number: int) -> None:
        self.network, self.name, self.port = network, name, f"port{number}"
        self.address, self.ray_address = f"10.77.0.{number}", f"10.77.0.{number}:6379"
        self.folder, self.disk = network.folder / str(number), network.disk
        token = self.folder / ".ray" / "auth_token"
        token.parent.mkdir(parents=True)
        token.touch(0o600)
        token.write_text(network.token)
        (self.folder / "tmp").mkdir()
        self.space = network.space()
        network.switch.ip(f"link add {self.port} type veth peer name eth0 netns {self.space.first}")
        network.switch.ip(f"link set {self.port} master br0 up")
        self.space.ip("link set lo up")
        self.space.ip("link set eth0 up")
        self.space.ip(f"address add {self.address}/24 dev eth0")
        self.space.ip("route add default dev eth0")  # leads nowhere; Ray looks for its own address along it
        for argv in (["mount", "--bind", self.folder, self.disk], ["hostname", name]):
            subprocess.run(self.space.inside(*argv), check=True, timeout=30)

    def popen(self, argv: Sequence[object], **options: Any) -> subprocess.Popen[str]:
        """Start a command in the host's home, which is its disk."""
        places = {"HOME": str(self.disk), "TMPDIR": str(self.disk / "tmp"), "RAY_TMPDIR": str(self.disk)}
        shell = {"PATH": f"{COMMANDS}:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "COLUMNS": "120"}
        ray = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", **HEALTH}
        argv = self.space.inside("env", f"--chdir={self.disk}", *argv)
        return subprocess.Popen(argv, env=shell | places | ray, start_new_session=True, **options)

    def run(self, argv: Sequence[object], *, seconds: float = 120) -> str:
        """Run a command → what it wrote. Fails where the command does."""
        log = self.folder / "run.txt"
        with log.open("w") as file:  # no pipe: daemons that it starts would keep it open
            code = self.popen(argv, stdout=file, stderr=file).wait(seconds)
        assert code == 0, f"{self.name}: {argv} ended with {code}: {log.read_text()}"
        return log.read_text()

    def ray_start(self, *, head: "Host | None" = None, cpus: int = 1, gpus: int = 0) -> None:
        """Make this host a node of the cluster of `head`, or the head of one."""
        role = [f"--address={head.ray_address}"] if head else ["--head", "--port=6379", "--include-dashboard=false"]
        own = [f"--node-ip-address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
        self.run(["ray", "start", *role, *own, f"--object-store-memory={100 << 20}"])

    def pids(self, pattern: str) -> list[int]:
        """Processes of this host whose command line matches, by their numbers outside."""
        argv = ["pgrep", "--full", "--ns", str(self.space.first), "--nslist", "pid", pattern]
        return [int(pid) for pid in subprocess.run(argv, capture_output=True, timeout=30).stdout.split()]

    def kill(self) -> None:
        """A power cut: SIGKILL to all that runs here. The disk stays."""
        self.space.end()

    def unplug(self) -> None:
        """Cut the link: nothing goes through, and nobody is told."""
        self.network.switch.ip(f"link set {self.port} down")

    def plug(self) -> None:
        """Mend the link."""
        self.network.switch.ip(f"link set {self.port} up")
