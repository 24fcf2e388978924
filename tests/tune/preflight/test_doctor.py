"""The checks before a search: each with what makes it fail, as far as one machine allows for real; and what each search says."""

import atexit
import dataclasses
import mmap
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from lfvd.data.corpus import Corpus
from lfvd.data.simulate import simulate
from lfvd.files import InputError, write_yaml
from lfvd.training.trainer import read_result, train
from tests.helpers.clusters import free_port
from tests.helpers.plans import PLAN, make_plan
from tune import session
from tune.execution import ray_jobs
from tune.plan import PlanError, SchedulerPlan
from tune.preflight import costs, doctor, nodes
from tune.preflight.costs import Measured, cost, epochs_per_trial, file_sizes, settled
from tune.preflight.nodes import Node
from tune.preflight.result import Finding, show

pytestmark = [
    # Ray 2.60 leaves its sockets and the ends of its pipes to the collector when a driver leaves a cluster.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    # The import of mlflow.store: SQLAlchemy 2.1 deprecates a loader that MLflow 3.17 uses.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

TAKEN = socket.socket()
TAKEN.bind(("127.0.0.2", 0))
atexit.register(TAKEN.close)
DEAD = f"127.0.0.2:{TAKEN.getsockname()[1]}"
"""An address at which nothing answers: taken, so that nobody else listens there."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A simulated corpus of few dialogues and narrow features."""
    path = tmp_path_factory.mktemp("data") / "small.safetensors"
    simulate("meld", seed=0, dialogues=16, widths={"l": 8, "a": 4}).save(path)
    return path


def plan_file(path: Path, **changes: object) -> Path:
    """`PLAN` with sections replaced, as a file."""
    write_yaml(path, {**PLAN, **changes})
    return path


@pytest.fixture
def two_cores(monkeypatch) -> None:
    """A cluster of one node that is not asked."""
    monkeypatch.setattr(ray_jobs, "_nodes", lambda: [{"CPU": 2.0, "memory": 8e9}])
    monkeypatch.setattr(ray_jobs, "counted_gpus", lambda: {"10.0.0.1": 0})


class TestAddress:
    @pytest.fixture(autouse=True)
    def no_other_ray(self, monkeypatch, tmp_path):
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        monkeypatch.setattr(ray_jobs.services, "find_gcs_addresses", frozenset)

    def test_none(self):
        assert doctor.check_address(None).ok

    def test_a_variable_that_is_not_used(self, monkeypatch):
        monkeypatch.setenv("RAY_ADDRESS", DEAD)
        found = doctor.check_address(None)
        assert (found.ok, found.fatal) == (False, False)
        assert str(found) == (
            f"RAY_ADDRESS={DEAD} is not used, since --address is missing: this machine alone works: add --address {DEAD}, "
            "or unset RAY_ADDRESS"
        )

    def test_nothing_answers(self):
        found = doctor.check_address(DEAD)
        assert (found.ok, found.fatal) == (False, True)
        assert str(found) == (
            f"nothing answers at {DEAD}, which --address names: start a cluster there with `ray start --head`, or name "
            "another with --address HOST:PORT"
        )

    def test_something_answers(self):
        with socket.create_server(("127.0.0.2", 0)) as server:
            address = f"127.0.0.2:{server.getsockname()[1]}"
            assert doctor.check_address(address) == Finding(check="address", found=f"{address} answers")

    def test_no_address(self):
        for address in ("auto", "here"):
            found = doctor.check_address(address)
            assert (found.ok, found.fatal) == (False, True)
            assert str(found) == (
                f"--address {address}: leads to no Ray cluster: start one with `ray start --head`, or name its HOST:PORT"
            )

    def test_the_file_of_a_dead_cluster(self, tmp_path):
        """Ray itself would wait for it for a long time."""
        file = tmp_path / "ray" / "ray_current_cluster"
        file.parent.mkdir()
        file.write_text(DEAD)
        found = doctor.check_address("auto")
        assert found.fatal
        assert str(found) == (
            f"nothing answers at {DEAD}, which {file} names: remove {file}, which a dead cluster left, or name a cluster with "
            "--address HOST:PORT"
        )
        assert doctor.check_address(None).ok, "nobody reads it then"

    def test_a_variable_of_a_dead_cluster(self, monkeypatch):
        monkeypatch.setenv("RAY_ADDRESS", DEAD)
        assert doctor.check_address("auto").found == f"nothing answers at {DEAD}, which RAY_ADDRESS names"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter; those above pytest's are closed."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(("folder", "mode", "ok"), [(0o755, 0o644, False), (0o755, 0o600, True), (0o700, 0o644, True)])
def test_token_file(open_folder, monkeypatch, folder, mode, ok):
    file = open_folder / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert doctor.check_token_file().found == f"there is no token file {file}"
    file.write_text("secret")
    file.chmod(mode)
    open_folder.chmod(folder)
    found = doctor.check_token_file()
    assert (found.ok, found.fatal) == (ok, False)
    if not ok:
        assert str(found) == (
            f"{file} can be read by others, who can then run code as you on your Ray clusters: chmod 600 {file}"
        )
    assert "secret" not in str(found)


def test_resources(two_cores):
    found = doctor.check_resources(make_plan())
    assert (found.ok, found.found) == (True, "2 at a time, each on 1 CPU and 0 GPU; the nodes have 2 CPU and 0 GPU")
    assert doctor.check_resources(make_plan(resources={"max_concurrent": 1})).found.startswith("1 at a time")
    found = doctor.check_resources(make_plan(resources={"gpu": 0.25}))
    assert (found.ok, found.fatal) == (False, True)
    assert str(found) == (
        "a trial asks 1 CPU and 0.25 GPU, but no node has that (there is 2 CPU and 0 GPU): lower `resources.cpu` or "
        "`resources.gpu` in the plan, or name a cluster with --address"
    )


def test_like_nodes_are_told_together(monkeypatch):
    monkeypatch.setattr(ray_jobs, "_nodes", lambda: [{"CPU": 8, "GPU": 1}, {"CPU": 2}, {"CPU": 8, "GPU": 1}])
    assert ray_jobs.on_offer() == "2 x 8 CPU and 1 GPU; 2 CPU and 0 GPU"


def test_storage_of_one_node(two_cores, tmp_path):
    found = doctor.check_storage(str(tmp_path / "new"), named=False)
    assert (found.ok, found.found) == (True, f"{tmp_path}/new is writable")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    found = doctor.check_storage(str(tmp_path / "file" / "x"), named=False)
    assert (found.ok, found.fatal) == (False, True)
    assert str(found) == (
        f"{tmp_path}/file/x cannot be written (Not a directory): check the path, its rights and the disk"
    )


@pytest.mark.parametrize("named", [True, False])
def test_storage_that_nodes_do_not_share(monkeypatch, named):
    monkeypatch.setattr(ray_jobs, "node_count", lambda: 3)
    monkeypatch.setattr(ray_jobs, "nodes_without", lambda place: {})
    assert doctor.check_storage("/share", named=named).found == "/share is writable, by all 3 nodes"
    monkeypatch.setattr(ray_jobs, "nodes_without", lambda place: {"10.0.0.2": "it is not there", "10.0.0.3": "x"})
    found = doctor.check_storage("/share", named=named)
    assert (found.ok, found.fatal) == (False, named)
    lost = "" if named else ", so that a trial that loses its node starts over"
    assert str(found) == (
        f"/share is not shared with node 10.0.0.2, 10.0.0.3 (it is not there){lost}: name a --storage that all nodes share: "
        "a folder, s3://… or gs://…"
    )


@pytest.mark.parametrize("width", [8, 128])
def test_file_sizes(tiny_config, tiny_corpus, tmp_path, width):
    """Those of a real run's files, but for some 150 kB of names and padding."""
    config = tiny_config.with_values({"model.width": width})
    train(config, tiny_corpus, 0, checkpoint=tmp_path / "run.pt")
    checkpoint, weights = file_sizes(config, tiny_corpus)
    assert checkpoint <= (tmp_path / "run.pt").stat().st_size < checkpoint + 200_000
    assert weights == sum(each.nbytes for each in read_result(tmp_path / "run.pt").state.values())


def test_disk(two_cores, tiny_corpus, tmp_path, monkeypatch):
    plan = make_plan()
    checkpoint, weights = file_sizes(plan.config, tiny_corpus)
    assert doctor.check_disk(plan, tiny_corpus, tmp_path, str(tmp_path)).ok
    needed = 2 * 2 * checkpoint + 3 * 2 * weights  # old and new of 2 at a time; 2 finalists and the baseline on 2 seeds
    free = SimpleNamespace(total=10**9, free=needed)
    monkeypatch.setattr(shutil, "disk_usage", lambda disk: free)
    assert doctor.check_disk(plan, tiny_corpus, tmp_path, str(tmp_path)).ok
    free.free -= 1
    found = doctor.check_disk(plan, tiny_corpus, tmp_path / "study", str(tmp_path / "study" / "checkpoints"))
    assert (found.ok, found.fatal) == (False, True)
    assert "free, but the search needs" in found.found
    assert found.remedy == "make room, or name another --results or --storage"
    (tmp_path / "study" / "weights").mkdir(parents=True)
    (tmp_path / "study" / "weights" / "trial0-seed0.safetensors").write_bytes(b"x")
    assert doctor.check_disk(plan, tiny_corpus, tmp_path / "study", str(tmp_path)).ok, "what is written needs no room"
    monkeypatch.setattr(doctor, "_mount", lambda path: path if path.name == "shm" else tmp_path)
    found = doctor.check_disk(plan, tiny_corpus, tmp_path, str(tmp_path / "shm"))
    assert found.ok, "each has room"
    free.free = 4 * checkpoint - 1
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "trial0-seed0.safetensors").write_bytes(bytes(3 * 2 * weights))
    found = doctor.check_disk(plan, tiny_corpus, tmp_path, str(tmp_path / "shm"))
    assert (found.ok, found.found.split()[0]) == (False, str(tmp_path / "shm")), "what lies elsewhere is no room here"
    free.free = 3 * 2 * weights
    found = doctor.check_disk(plan, tiny_corpus, tmp_path, "s3://bucket/place")
    assert (found.ok, found.found.endswith("; the room in s3://bucket/place is not known")) == (None, True)


def a_node(**changes: str) -> Node:
    """A node like this one, but for some versions."""
    return Node(versions=nodes.versions() | changes, gpus=[], token=True)


def test_versions(monkeypatch):
    same = {"python": "3", "ray": "2", "torch": "4", "lfvd": "1", "commit": "abc"}
    monkeypatch.setattr(nodes, "versions", lambda: same)
    monkeypatch.setattr(nodes, "_own_address", lambda: "10.0.0.1")
    found = nodes.check_versions({"10.0.0.1": a_node(), "10.0.0.2": a_node(commit="none")})
    assert found.ok
    assert found.found.endswith(" on all 2 nodes")
    for key in ("python", "ray", "torch", "lfvd", "commit"):
        found = nodes.check_versions({"10.0.0.1": a_node(), "10.0.0.2": a_node(**{key: "0.1"})})
        assert (found.ok, found.fatal) == (False, False)
        assert found.found == f"{key} is {same[key]} on 10.0.0.1, 0.1 on 10.0.0.2"
    monkeypatch.setattr(nodes, "_own_address", lambda: "10.0.0.2")
    found = nodes.check_versions({"10.0.0.1": a_node(), "10.0.0.2": a_node(torch="0.1")})
    assert found.found == "torch is 4 on this machine, 10.0.0.1, 0.1 on 10.0.0.2", "its Ray has another torch"


def test_a_node_that_cannot_run_trials():
    answer = "ModuleNotFoundError: No module named 'tune'"
    [found] = nodes.check_answers({"10.0.0.1": a_node(), "10.0.0.2": answer})
    assert (found.ok, found.fatal) == (False, True)
    assert str(found) == (
        f"node 10.0.0.2 cannot run trials ({answer}): install there what is installed here, at the same place"
    )


@pytest.mark.parametrize("answer", ["no answer within 60 s", "RuntimeError: CUDA error"])
def test_a_node_that_does_not_answer(monkeypatch, answer):
    monkeypatch.setattr(ray_jobs, "counted_gpus", lambda: {"10.0.0.1": 0, "10.0.0.2": 0})
    answers = {"10.0.0.1": a_node(), "10.0.0.2": answer}
    found, versions, *_ = nodes.check_nodes(make_plan(), answers, None)
    assert (found.ok, found.fatal) == (False, False)
    assert str(found) == (
        f"node 10.0.0.2 did not answer ({answer}): mend it, or take it out of the cluster with `ray stop` there, since trials "
        "are sent to it all the same"
    )
    assert versions.found.endswith(" on 1 of 2 nodes")


def test_nodes_are_waited_for_together(monkeypatch):
    """Three that never answer: no longer than for one."""
    waited = []

    def get(answer: object, timeout: float) -> None:
        waited.append(timeout)
        raise ray_jobs.ray.exceptions.GetTimeoutError

    alive = [{"Alive": True, "NodeID": "0" * 56, "NodeManagerAddress": f"10.0.0.{i}"} for i in (1, 2, 3)]
    asking = SimpleNamespace(remote=lambda *_: object())
    monkeypatch.setattr(ray_jobs.ray, "nodes", lambda: alive)
    monkeypatch.setattr(ray_jobs.ray, "remote", lambda **_: lambda question: asking)
    monkeypatch.setattr(ray_jobs.ray, "wait", lambda answers, num_returns, timeout: waited.append(timeout))
    monkeypatch.setattr(ray_jobs.ray, "get", get)
    monkeypatch.setattr(ray_jobs.ray, "cancel", lambda *_, **__: None)
    answers = ray_jobs.on_each_node(nodes.look)
    assert answers == {f"10.0.0.{i}": "no answer within 60 s" for i in (1, 2, 3)}
    assert sum(waited) == 60


def test_access():
    closed, bare = a_node(), dataclasses.replace(a_node(), token=False)
    assert nodes.check_access({"10.0.0.1": closed}).ok
    found = nodes.check_access({"10.0.0.1": closed, "10.0.0.2": bare})
    assert (found.ok, found.fatal) == (False, False)
    assert str(found) == (
        "Ray on 10.0.0.2 asks for no token, so that whoever reaches it can run code as you: start it with RAY_AUTH_MODE=token "
        "and the same ~/.ray/auth_token on all nodes"
    )


def test_gpus(monkeypatch):
    card = [("Card", 80 * 10**9)]
    answers = {f"10.0.0.{i}": dataclasses.replace(a_node(), gpus=card * i) for i in (1, 2)}
    counted = {"10.0.0.1": 1, "10.0.0.2": 2}
    monkeypatch.setattr(ray_jobs, "counted_gpus", lambda: counted)
    wanted = make_plan(resources={"gpu": 0.5})
    found = nodes.check_gpus(wanted, answers)
    assert (found.ok, found.found) == (
        True,
        "torch sees 1 x Card of 80.0 GB on 10.0.0.1, 2 x Card of 80.0 GB on 10.0.0.2",
    )
    counted["10.0.0.2"] = 8
    found = nodes.check_gpus(wanted, answers)
    assert (found.ok, found.fatal) == (False, False)
    assert found.found == ("Ray counts 8 GPUs on 10.0.0.2, but torch sees 2 there, so that trials may train on the CPU")
    assert nodes.check_gpus(make_plan(), answers).ok, "the plan uses none"
    assert not nodes.check_gpus(wanted, {nodes.HERE: a_node()}).ok
    counted.update({"10.0.0.1": 0, "10.0.0.2": 0})
    assert nodes.check_gpus(wanted, {nodes.HERE: a_node()}).ok


class Answering(BaseHTTPRequestHandler):
    """An MLflow server, of which only some answers are needed."""

    version, status, text = "3.17.2", 200, "{}"

    def do_GET(self) -> None:
        self._answer(200, self.version) if self.path == "/version" else self._answer(self.status, self.text)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(self.status, self.text)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator:
    """Start a server that answers so → its address."""
    servers = []

    def serve(**answers: object) -> str:
        server = HTTPServer(("127.0.0.1", 0), type("Handler", (Answering,), answers))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


SYNC = "a search goes on without it; `lfvd-tune sync NAME` sends later what is missing"


class TestMlflow:
    def test_a_server(self, serve):
        uri = serve()
        assert doctor.check_mlflow(uri) == Finding(check="mlflow", found=f"MLflow 3.17.2 at {uri}")
        uri = serve(version="<html>")
        assert doctor.check_mlflow(uri).found == f"MLflow at {uri} answers"

    def test_of_another_version(self, serve):
        found = doctor.check_mlflow(uri := serve(version="2.9.2"))
        assert (found.ok, found.fatal, found.remedy) == (False, False, SYNC)
        assert found.found.startswith(f"MLflow at {uri} is of version 2.9.2, which does not go with 3.")

    def test_that_refuses_the_name(self, serve):
        from mlflow.server.security_utils import INVALID_HOST_MSG

        found = doctor.check_mlflow(uri := serve(status=403, text=INVALID_HOST_MSG))
        assert (found.ok, found.fatal) == (False, False)
        assert found.found == (
            f"MLflow at {uri} refuses the host name (403): start it with `--allowed-hosts 127.0.0.1`, or name it by its IP "
            "address"
        )

    def test_that_is_down(self):
        uri = f"http://user:secret@{DEAD}"
        found = doctor.check_mlflow(uri)
        assert (found.ok, found.fatal) == (False, False)
        assert str(found) == f"MLflow at http://{DEAD} does not work ([Errno 111] Connection refused): {SYNC}"

    def test_a_database(self, tmp_path):
        file = tmp_path / "mlflow.db"
        assert doctor.check_mlflow(f"sqlite:///{file}").found == f"{file} will be made"
        assert not file.exists()
        file.write_text("something else, which is no database")
        found = doctor.check_mlflow(f"sqlite:///{file}")
        assert (found.ok, found.fatal) == (False, False)
        assert "file is not a database" in found.found


ON_CPU = Measured(seconds=2.0, memory=10**9)
ON_GPU = Measured(seconds=2.0, memory=3 * 10**9, device="Card", device_memory=3 * 10**9, device_free=20 * 10**9)


def test_epoch(two_cores, monkeypatch):
    assert doctor.check_epoch(make_plan(), ON_CPU) == Finding(
        check="epoch", found="2 s with the base config; a trial takes 1.0 GB of memory"
    )
    found = doctor.check_epoch(make_plan(), dataclasses.replace(ON_CPU, memory=5 * 10**9))
    assert (found.ok, found.fatal) == (False, False)
    assert found.found.endswith("; 2 run at a time, but the nodes' memory holds 1")
    assert found.remedy == "set `resources.max_concurrent: 1`, or raise `resources.cpu`"
    found = doctor.check_epoch(make_plan(), "NonFiniteLoss: epoch 1")
    assert (found.ok, found.fatal) == (False, True)
    assert found.found == "the timed epoch failed (NonFiniteLoss: epoch 1)"
    monkeypatch.setattr(ray_jobs, "_nodes", lambda: [{"CPU": 16, "GPU": 1, "memory": 100e9}])
    found = doctor.check_epoch(make_plan(resources={"gpu": 0.25}), ON_GPU)
    assert (found.ok, found.found.endswith("and 3.0 GB of Card (20.0 GB free): 6 fit")) == (True, True)
    found = doctor.check_epoch(make_plan(resources={"gpu": 0.125}), ON_GPU)
    assert (found.ok, found.fatal) == (False, False)
    assert found.found.endswith(": 6 fit, but 8 share it")
    plan = settled(make_plan(resources={"gpu": "auto"}), ON_GPU)
    assert doctor.check_epoch(plan, ON_GPU).found.endswith(": 6 fit; `gpu: auto` is 0.167")


@pytest.mark.parametrize(("free", "trials"), [(2, 1), (3, 1), (6.5, 1), (7, 2), (10, 3), (20, 6), (24, 7), (500, 8)])
def test_auto_gpu(free, trials, monkeypatch):
    """As many as fit into nine tenths of what is free, at most eight, at least one."""
    plan = settled(make_plan(resources={"gpu": "auto"}), dataclasses.replace(ON_GPU, device_free=int(free * 1e9)))
    monkeypatch.setattr(ray_jobs, "_nodes", lambda: [{"CPU": 64, "GPU": 2}])
    assert ray_jobs.concurrent(plan.resources) == 2 * trials


NO_GPU = (
    "no node has a GPU now, so that all trials of this sitting train on the CPU: start the search when a GPU node is up, or "
    "set `resources.gpu: 0`"
)


def test_auto_gpu_without_gpus(two_cores, tiny_corpus):
    asked = make_plan(resources={"gpu": "auto"}, budget={"gpu_hours": 2})
    assert asked.auto_gpu
    assert (asked.resources.gpu, asked.config.run.device) == (0.0, "auto")
    assert costs.settle(asked, tiny_corpus) == (asked, NO_GPU)
    assert settled(asked, ON_CPU) == asked
    fixed = make_plan(resources={"gpu": 0.5})
    assert settled(fixed, ON_GPU) is fixed
    with pytest.raises(PlanError, match=r"`resources.gpu` is 'many', but must be a number"):
        make_plan(resources={"gpu": "many"})


@pytest.mark.parametrize(
    ("measured", "gpu", "how"),
    [
        (ON_GPU, 1 / 6, "6 trials on a device (each takes 3.0 GB of Card, 20.0 GB free)"),
        (ON_CPU, 0.0, "torch sees none of the GPUs that Ray counts: training on CPU"),
    ],
)
def test_auto_gpu_with_gpus(monkeypatch, measured, gpu, how):
    monkeypatch.setattr(ray_jobs, "_nodes", lambda: [{"CPU": 8, "GPU": 1}])
    asked = []
    monkeypatch.setattr(ray_jobs, "run_once", lambda *args, resources: asked.append((args, resources)) or measured)
    plan, told = costs.settle(make_plan(resources={"gpu": "auto"}), None)
    assert (plan.resources.gpu, told) == (gpu, how)
    [((question, config, _), resources)] = asked
    assert (question, config.run.epochs, config.run.device, resources.gpu) == (costs.measure, 2, "auto", 1.0)
    monkeypatch.setattr(ray_jobs, "run_once", lambda *args, resources: "NonFiniteLoss: epoch 1")
    with pytest.raises(
        InputError, match=r"`resources.gpu` is auto, but the epoch that settles it failed \(NonFiniteLoss"
    ):
        costs.settle(make_plan(resources={"gpu": "auto"}), None)


def test_epochs_per_trial():
    """All of them without rungs; with rungs and many trials as if one in `reduction` went on; of few, more."""
    assert epochs_per_trial(SchedulerPlan(kind="none", max_epochs=80), 40) == 80
    plan = SchedulerPlan(grace_epochs=3, reduction=3, max_epochs=80)
    limit = 3 + 6 / 3 + 18 / 9 + 53 / 27
    many = epochs_per_trial(plan, 20_000)
    assert many == pytest.approx(limit, rel=0.1)
    assert 1.3 * many < epochs_per_trial(plan, 60) < 3 * many
    assert epochs_per_trial(plan, 1) == 80, "the first trial has nobody to lose against"


def test_cost():
    changes = {
        "trials": 60,
        "scheduler": {"kind": "none", "max_epochs": 10},
        "confirm": {"finalists": 3, "seeds": [0, 1]},
    }
    takes = cost(make_plan(**changes), 6.0, 4)
    assert (takes.search, takes.confirm, takes.gpu_hours, takes.bounded) == (60 * 60 / 4, 2 * 60, 0, "")
    assert cost(make_plan(**changes), 6.0, 1000).search == 60, "no less than one trial takes"
    takes = cost(make_plan(**changes, resources={"gpu": 0.5}), 6.0, 4)
    assert takes.gpu_hours == pytest.approx(0.5 * (60 + 8) * 60 / 3600)
    takes = cost(make_plan(**changes, resources={"gpu": 0.5}, budget={"gpu_hours": 0.1}), 6.0, 4)
    assert (takes.bounded, takes.search) == ("gpu_hours", pytest.approx(0.1 * 3600 / 2))
    assert takes.gpu_hours == pytest.approx(0.1 + 0.5 * 8 * 60 / 3600)
    takes = cost(make_plan(**changes, budget={"wall": "2m"}), 6.0, 4)
    assert (takes.bounded, takes.search) == ("wall", 120)


def test_cost_is_told(two_cores):
    plan = make_plan(budget={"wall": "2m"}, trials=600)
    assert doctor.check_cost(plan, ON_CPU).found == (
        "search about 2:00 of training (ended by `budget.wall`), confirmation about 0:24; 2 trials at a time; for "
        "trials of random merit, at the base's time an epoch"
    )
    plan = make_plan(resources={"gpu": 0.5}, trials=1, scheduler={"kind": "none", "max_epochs": 80})
    told = doctor.check_cost(plan, dataclasses.replace(ON_GPU, seconds=123 * 3600 / (0.5 * 7 * 80))).found
    assert "; about 123 GPU-hours; " in told


def test_epoch_of_minutes(two_cores):
    assert doctor.check_epoch(make_plan(), dataclasses.replace(ON_CPU, seconds=131.4)).found.startswith("131 s with")


def test_memory_that_is_shared_is_not_counted(tmp_path, monkeypatch):
    """Pages of the corpus in the object store are such; where Linux does not tell, the peak of all pages."""
    mega, before = 1 << 20, costs.own_memory()
    with mmap.mmap(-1, 200 * mega) as shared:
        shared.write(bytes(200 * mega))
        assert costs.own_memory() - before < 50 * mega
    own = np.ones(200 * mega, np.uint8)
    assert 150 * mega < costs.own_memory() - before < 250 * mega
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert peak > own.nbytes
    for file in (tmp_path / "none", tmp_path / "status"):
        monkeypatch.setattr(costs, "STATUS", file)
        assert costs.own_memory() >= peak
        (tmp_path / "status").write_text("VmRSS:\t  9 kB\n")
    (tmp_path / "status").write_text("VmRSS:\t  9 kB\nRssAnon:\t     148 kB\nRssFile:\t 7 kB\n")
    assert costs.own_memory() == 148 * 1024


def test_memory_is_the_most_that_is_seen(tiny_config, tiny_corpus, monkeypatch):
    """After each epoch, and at the end."""
    seen = iter([5, 9, 3])
    monkeypatch.setattr(costs, "own_memory", lambda: next(seen))
    config = tiny_config.with_values({"run.epochs": 2, "run.patience": 0, "run.device": "cpu"})
    assert costs.measure(config, tiny_corpus).memory == 9
    assert next(seen, None) is None


def printed(finding: Finding) -> str:
    console = Console(record=True, file=open(os.devnull, "w"), width=80)  # noqa: SIM115 (closed below)
    show(finding, console)
    console.file.close()
    return console.export_text()


def test_what_is_printed():
    """A mark, the check, what was found, and the remedy below; nothing is taken for markup."""
    assert [line.rstrip() for line in printed(Finding(check="disk", found="[red]room[/]")).splitlines()] == [
        "✓ disk      [red]room[/]"
    ]
    text = printed(Finding(check="storage", ok=False, found="word " * 30, remedy="do that"))
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0].startswith("✗ storage   word word")
    assert lines[1].startswith("            word")
    assert lines[-1] == "            → do that"
    assert max(map(len, lines)) <= 80
    assert printed(Finding(check="disk", ok=None, found="s3")).startswith("? disk      s3")


def test_heed():
    """Quiet where all is well; a warning for what is amiss; an error for what a search would fail of."""
    console = Console(record=True, file=open(os.devnull, "w"), width=80)  # noqa: SIM115 (closed below)
    well = [Finding(check="a", found="good"), Finding(check="b", ok=None, found="not known")]
    session.heed(well, console)
    session.heed([Finding(check="c", ok=False, found="so", remedy="do that")], console)
    with pytest.raises(InputError, match=r"^it is broken: mend it$"):
        session.heed([*well, Finding(check="d", ok=False, found="it is broken", remedy="mend it", fatal=True)], console)
    console.file.close()
    assert console.export_text() == "warning: so: do that\n"


def test_before_a_search_on_this_machine(two_cores, make_study, tiny_corpus, monkeypatch):
    """Nothing to say, and no worker is asked, which would take seconds."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("a worker was asked")

    monkeypatch.setattr(ray_jobs, "on_each_node", asked)
    monkeypatch.setattr(ray_jobs, "run_once", asked)
    study = make_study()
    within = doctor.within(study, tiny_corpus, None)
    assert [(f.check, f.ok) for f in within] == [("versions", True), ("gpus", True), ("storage", True), ("disk", True)]


class TestOnRay:
    """On two cores and two GPUs that are numbers only."""

    @pytest.mark.slow
    def test_a_cluster_as_it_is(self, connected, address, make_study, tiny_corpus):
        found = {f.check: f for f in doctor.within(make_study(resources={"gpu": 0.5}), tiny_corpus, address)}
        assert list(found) == ["versions", "access", "gpus", "storage", "disk"]
        assert found["versions"].ok
        assert str(found["gpus"]) == (
            "Ray counts 2 GPUs on 127.0.0.2, but torch sees 0 there, so that trials may train on the CPU: install the GPUs' "
            "driver and a torch for it, or start Ray with the `--num-gpus` that there are"
        )
        [node] = ray_jobs.on_each_node(nodes.look).values()
        assert found["access"].ok == node.token

    @pytest.mark.slow
    def test_a_timed_epoch(self, connected, tiny_corpus):
        measured = costs.timed(make_plan(), tiny_corpus)
        assert 0 < measured.seconds < 30
        assert 5e7 < measured.memory < 5e9
        assert (measured.device, measured.fits) == ("", 0)
        huge = {"l": np.sign(tiny_corpus.features["l"]) * np.float32(3e38)}
        broken = dataclasses.replace(tiny_corpus, features=huge)
        plan = make_plan(set={**PLAN["set"], "data.standardise": False})
        assert "loss is not finite" in costs.timed(plan, broken)

    @pytest.mark.slow
    def test_auto_gpu(self, connected, tiny_corpus):
        plan, how = costs.settle(make_plan(resources={"gpu": "auto"}), tiny_corpus)
        assert (plan.resources.gpu, how) == (0.0, "torch sees none of the GPUs that Ray counts: training on CPU")

    @pytest.mark.slow
    def test_a_place_that_never_comes(self, connected):
        resources = dataclasses.replace(make_plan().resources, cpu=64, epoch_timeout="1s")
        assert ray_jobs.run_once(nodes.look, resources=resources) == "no answer within 1 s"

    @pytest.mark.slow
    def test_a_node_with_another_torch(self, connected, address, tmp_path):
        """A second node on this machine; its Python finds another version's entry first."""
        entry = tmp_path / "torch-1.2.3.dist-info"
        entry.mkdir()
        (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.2.3\n")
        scratch = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short: it goes into socket names
        argv = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
        argv += [f"--address={address}", "--node-ip-address=127.0.0.3", "--num-cpus=1", "--num-gpus=0"]
        argv += [f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={scratch}"]
        other = {
            **os.environ,
            "PYTHONPATH": str(tmp_path),
            "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"),
        }
        with open(Path(scratch) / "log.txt", "w") as log:
            node = subprocess.Popen(argv, env=other, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while ray_jobs.node_count() < 2:
                assert node.poll() is None, (Path(scratch) / "log.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            answers = ray_jobs.on_each_node(nodes.look)
            assert answers["127.0.0.3"].versions["torch"] == "1.2.3", answers
            found = nodes.check_versions(answers)
            assert (found.ok, found.fatal) == (False, False)
            assert found.found == (f"torch is {nodes.versions()['torch']} on 127.0.0.2, 1.2.3 on 127.0.0.3")
            assert doctor.check_storage(str(tmp_path), named=False).found == f"{tmp_path} is writable, by all 2 nodes"
        finally:
            node.terminate()
            node.wait(60)
            shutil.rmtree(scratch, ignore_errors=True)
            deadline = time.monotonic() + 120
            while ray_jobs.node_count() > 1:
                assert time.monotonic() < deadline, "the node is still there"
                time.sleep(0.2)


def run(*argv: object) -> subprocess.CompletedProcess:
    """The command, piped, on 80 columns."""
    environment = {**os.environ, "COLUMNS": "80"}
    environment.pop("RAY_ADDRESS", None)
    command = [str(Path(sys.executable).with_name("lfvd-tune")), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.slow
def test_the_command(data, tmp_path):
    """All well: a line for each check, exit 0, and nothing left behind but the folder of results."""
    done = run("doctor", plan_file(tmp_path / "p.yaml"), "--data", data, "--results", tmp_path / "results")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    lines = done.stdout.splitlines()
    checks = [line.split()[1] for line in lines if line[0] in "✓✗?"]
    assert checks == [
        "address",
        "token",
        "resources",
        "storage",
        "versions",
        "gpus",
        "mlflow",
        "epoch",
        "disk",
        "estimate",
    ]
    assert max(map(len, lines)) <= 80
    assert "✗" not in done.stdout.replace("✗ token", "")
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.slow
def test_the_command_where_a_search_would_fail(data, tmp_path):
    """Each ✗ with its remedy, exit 1; MLflow alone would not be a reason."""
    argv = ["--data", data, "--results", tmp_path, "--tracking-uri", f"http://{DEAD}"]
    done = run("doctor", plan_file(tmp_path / "p.yaml", resources={"cpu": 999}), *argv)
    assert (done.returncode, done.stderr) == (1, "")
    assert "✗ resources a trial asks 999 CPU and 0 GPU, but no node has that" in done.stdout
    assert "→ lower `resources.cpu`" in done.stdout
    assert "✗ mlflow    MLflow at" in done.stdout
    assert "✓ epoch" not in done.stdout
    done = run("doctor", plan_file(tmp_path / "p.yaml"), *argv)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗ mlflow    MLflow at" in done.stdout


def test_the_command_without_a_cluster(data, tmp_path, capsys):
    from tune.cli import main

    argv = ["doctor", plan_file(tmp_path / "p.yaml"), "--data", data, "--results", tmp_path, "--address", DEAD]
    with pytest.raises(SystemExit) as end:
        main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (1, "")
    assert f"✗ address   nothing answers at {DEAD}, which --address names" in out
    assert "resources" not in out, "what needs a cluster is not asked"


@pytest.mark.slow
def test_a_search_with_auto_gpu(data, tmp_path):
    """One line says what it came to, in each sitting."""
    short = {"trials": 1, "confirm": {"finalists": 1, "seeds": [0]}}
    file = plan_file(tmp_path / "p.yaml", **short, resources={"gpu": "auto"})
    argv = ["search", file, "--data", data, "--name", "auto", "--results", tmp_path]
    for _ in range(2):
        done = run(*argv)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        assert done.stdout.splitlines()[0] == f"`gpu: auto`: {NO_GPU}"
    assert "warning" not in done.stdout


def test_a_search_whose_cluster_is_gone(data, tmp_path, capsys):
    """At once, in one sentence."""
    from tune.cli import main

    argv = ["search", plan_file(tmp_path / "p.yaml"), "--data", data, "--results", tmp_path, "--address", DEAD]
    with pytest.raises(SystemExit) as end:
        main([str(arg) for arg in argv])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        f"lfvd-tune: nothing answers at {DEAD}, which --address names: start a cluster there with `ray start --head`, or name "
        "another with --address HOST:PORT\n"
    )


def test_corpus_is_sealed(two_cores, tiny_corpus, monkeypatch):
    """The timed epoch's worker gets no test split."""
    seen: list[Corpus] = []
    monkeypatch.setattr(doctor, "timed", lambda plan, corpus: seen.append(corpus) or ON_CPU)
    list(doctor._trials(make_plan(), tiny_corpus, Path("results"), "results"))
    assert not len(seen[0].indices("test"))
    assert len(tiny_corpus.indices("test"))
