"""Searches over several hosts, of which one is lost in the middle: killed, unplugged, without its raylet, or leaving.

Each test prints a line of figures. One cluster serves all tests: a head and two workers, those that a fault took replaced.
"""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from optuna.trial import TrialState

from lfvd.data.simulate import simulate
from lfvd.files import write_yaml
from lfvd.training.checkpoint import read_result
from tests.helpers.hosts import Host, Network, T, lacking, until
from tests.helpers.plans import PLAN
from tests.helpers.soundness import assert_sound
from tune.study.study import Study

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(lacking()), reason=lacking())]

RAYLET = "raylet/raylet"
"""Ray's own process on each node."""

PATIENCE = 240
"""Seconds for whatever takes a few on an idle machine: trials give way to all other work."""

SETTINGS = {
    "set": {**PLAN["set"], "model.width": 32},  # an epoch takes some 0.3 s
    "scheduler": {"kind": "asha", "grace_epochs": 16, "reduction": 2, "max_epochs": 24},
    "trials": 6,
    "confirm": {"folds": 0, "finalists": 1, "seeds": [0]},
}


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture
def hosts(network: Network) -> Iterator[list[Host]]:
    """A head with room for two trials, where the driver runs, and two workers with room for one."""
    if not network.hosts:
        head = network.add("head")
        simulate("meld", seed=0, dialogues=80, widths={"l": 64, "a": 4}).save(head.folder / "corpus.safetensors")
        head.ray_start(cpus=2, gpus=2)
    head, *workers = [host for host in network.hosts if host.space.lives]
    for host in [host for host in workers if not host.pids(RAYLET)]:
        host.kill()
        workers.remove(host)
    while len(workers) < 2:
        workers.append(network.add(f"worker{len(network.hosts)}"))
        workers[-1].ray_start(head=head, cpus=1, gpus=1)
    yield [head, *workers]
    for driver in head.pids("lfvd-tune search"):  # of a test that failed
        os.kill(driver, signal.SIGKILL)


class Search:
    """`lfvd-tune search` on the head, its results on the head's own disk; and what can be seen of it from outside."""

    def __init__(self, head: Host, name: str, *options: object, **changes: object) -> None:
        self.network, self.folder, self.began = head.network, head.folder / "results" / name, time.time()
        write_yaml(head.folder / "plan.yaml", {**PLAN, **SETTINGS, **changes})
        self.log = head.folder / f"{name}.txt"
        argv = ["lfvd-tune", "search", "plan.yaml", "--data", "corpus.safetensors", "--name", name]
        with self.log.open("w") as log:
            self.driver = head.popen([*argv, "--address", head.ray_address, *options], stdout=log, stderr=log)

    def lines(self, name: str) -> list[dict]:
        """Records of a file of the study."""
        path = self.folder / name
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []

    @property
    def epochs(self) -> Counter[int]:
        """Epochs recorded of each trial."""
        return Counter(record["trial"] for record in self.lines("epochs.jsonl") if record["stage"] == "search")

    def trial_on(self, worker: Host) -> set[int]:
        """The trial that a worker trains now, or none."""
        found = worker.folder.glob("ray/session_2*/artifacts/*/ray/working_dirs/trial*")
        begun = {path.stat().st_ctime: path.name for path in found if path.stat().st_ctime > self.began}
        if not begun or not worker.pids("^ray::ImplicitFunc.train"):  # Ray may have a process wait there for a trial
            return set()
        return {int(begun[max(begun)].removeprefix("trial").partition("-")[0])}

    def begun_on(self, worker: Host) -> set[int]:
        """The trial that a worker trains now, where it has begun and its first rung is far."""
        return {trial for trial in self.trial_on(worker) if 3 <= self.epochs[trial] <= 6}

    def wait(self, true: Callable[[], T]) -> T:
        """Wait until something is true while the search runs, and return it."""

        def there() -> T:
            assert self.driver.poll() is None, self.log.read_text()
            return true()

        return until(there, PATIENCE, self.log.read_text)

    def finish(self) -> Study:
        """Wait for its end, and check all that it left."""
        try:
            assert self.driver.wait(PATIENCE) == 0, self.log.read_text()
        except subprocess.TimeoutExpired:
            pytest.fail(self.log.read_text())
        assert not list(self.network.shared.iterdir()), "checkpoints of ended trials are deleted"
        return assert_sound(self.folder)


class Loss:
    """A worker that is lost while it trains a trial, and how the search takes it."""

    def __init__(self, search: Search, worker: Host, lose: Callable[[], None]) -> None:
        self.search, self.worker = search, worker
        [self.trial] = search.wait(lambda: search.begun_on(worker))
        began = time.monotonic()
        lose()
        search.wait(lambda: self.trial in [fault.get("trial") for fault in search.lines("faults.jsonl")])
        self.noticed, known = time.monotonic() - began, search.epochs[self.trial]
        before = self._saved()  # behind a cut, the epoch in work was still ended and saved
        _, epochs = search.wait(lambda: (now := self._saved()) != before and now)
        self.resumed = time.monotonic() - began
        self.repeated = max(0, known - (epochs - 1))
        """Whole epochs that were trained again."""

    def _saved(self) -> tuple[int, int] | None:
        """When the trial's checkpoint was last written, not on the lost disk, and how many epochs it holds."""
        name, network = f"trial{self.trial}.pt", self.search.network
        disks = [host.folder for host in network.hosts if host is not self.worker]
        alone = [path for disk in disks for path in disk.glob(f"tmp/lfvd-tune-*/{self.search.folder.name}-*/{name}")]
        found = [*network.shared.glob(name), *alone]
        return (found[0].stat().st_mtime_ns, len(read_result(found[0]).history)) if found else None


@pytest.fixture
def tell(capsys) -> Callable[..., None]:
    """Print a line of figures, past pytest."""

    def tell(kind: str, loss: Loss, study: Study, **more: float) -> None:
        lost = study.plan.trials - sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in study.trials)
        figures = {"trials lost": lost, "epochs repeated": loss.repeated}
        seconds = {"s to notice": loss.noticed, "s to the next epoch": loss.resumed, **more}
        words = [*(f"{n} {k}" for k, n in figures.items()), *(f"{n:.1f} {k}" for k, n in seconds.items())]
        with capsys.disabled():
            print(f"\n{kind}: {', '.join(words)}")

    return tell


def test_power_cut(hosts, tell):
    """All hosts work; the trial of the one that dies goes on elsewhere from its checkpoint."""
    head, worker, other = hosts
    search = Search(head, "power", "--storage", head.network.shared, resources={"gpu": 1.0})
    search.wait(lambda: search.trial_on(worker) and search.trial_on(other) and head.pids("^ray::ImplicitFunc.train"))
    loss = Loss(search, worker, worker.kill)
    study = search.finish()
    assert loss.repeated == 0, "at most the epoch in work"
    assert [fault["then"] for fault in study.faults()] == ["started again on another worker"]
    tell("host killed, shared storage", loss, study)


def test_link_cut(hosts, tell):
    """Nobody is told, and it is noticed; what goes on behind the cut changes nothing, then or when the link is back."""
    head, *workers = hosts
    search = Search(head, "link", "--storage", head.network.shared, resources={"max_concurrent": 3})
    worker = search.wait(lambda: next((worker for worker in workers if search.begun_on(worker)), None))
    loss = Loss(search, worker, worker.unplug)
    assert loss.noticed < 10
    worker.plug()
    study = search.finish()
    assert loss.repeated == 0, "at most the epoch in work"
    before = {path: path.stat().st_mtime_ns for path in search.folder.rglob("*")}
    until(lambda: not worker.pids("^ray::"), PATIENCE, "what runs on the host that was given up does not end")
    assert {path: path.stat().st_mtime_ns for path in search.folder.rglob("*")} == before
    tell("link cut and mended, shared storage", loss, study)


def test_without_shared_storage(hosts, tell):
    """Said once, at the start: a trial that loses its node starts over. It does, and all trials come to their end."""
    head, worker, _ = hosts
    search = Search(head, "alone")
    loss = Loss(search, worker, worker.kill)
    study = search.finish()
    assert search.log.read_text().count("a trial that loses its node starts over") == 1
    assert loss.repeated > 0
    tell("host killed, no shared storage", loss, study)


def test_raylet_killed(hosts, tell):
    """Ray's own process on a host dies, and takes the host out of the cluster."""
    head, worker, _ = hosts
    search = Search(head, "raylet", "--storage", head.network.shared)
    [raylet] = worker.pids(RAYLET)
    loss = Loss(search, worker, lambda: os.kill(raylet, signal.SIGKILL))
    study = search.finish()
    assert loss.repeated == 0, "at most the epoch in work"
    tell("raylet killed, shared storage", loss, study)


def test_a_host_joins_that_shares_no_disk():
    """The study's folder lay on the only host; now it does not reach all of them, and the user is told."""
    with Network() as network:
        head = network.add("head")
        simulate("meld", seed=0, dialogues=80, widths={"l": 64, "a": 4}).save(head.folder / "corpus.safetensors")
        head.ray_start(cpus=1)
        search = Search(head, "alone", trials=2, scheduler={"kind": "none", "max_epochs": 400})
        search.wait(lambda: search.epochs)
        assert "not shared" not in search.log.read_text()
        guest = network.add("guest")
        guest.ray_start(head=head, cpus=1)
        since = time.monotonic()
        search.wait(lambda: "a node joined" in search.log.read_text())
        assert f"is not shared with node {guest.address}" in search.log.read_text()
        assert time.monotonic() - since < 60
        search.driver.kill()
        search.driver.wait()


def test_a_host_comes_and_goes(hosts, network, tell):
    """One that joins is used; one that leaves in good order is survived."""
    long = {"kind": "none", "max_epochs": 40}  # so that a fifth trial finds no other place before the guest is ready
    search = Search(hosts[0], "elastic", "--storage", network.shared, trials=5, scheduler=long)
    search.wait(lambda: search.epochs)
    guest = network.add("guest")
    guest.ray_start(head=hosts[0], cpus=1)
    since = time.monotonic()
    search.wait(lambda: search.trial_on(guest))
    used = time.monotonic() - since
    [raylet] = guest.pids(RAYLET)
    loss = Loss(search, guest, lambda: os.kill(raylet, signal.SIGTERM))
    study = search.finish()
    assert loss.repeated == 0, "at most the epoch in work"
    tell("host joins and leaves, shared storage", loss, study, **{"s until it is used": used})
