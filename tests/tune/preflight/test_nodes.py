"""Checks of nodes: by invented reports, and on two real nodes of which one has another torch."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.util

from tests.helpers.clusters import free_port, own_cluster
from tests.helpers.plans import make_plan
from tune.execution import ray_cluster
from tune.preflight import doctor, nodes
from tune.preflight.nodes import NodeInfo

pytestmark = [
    # Ray 2.60 leaves its sockets and the ends of its pipes to the collector when a driver leaves a cluster.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def a_node(**versions: str) -> NodeInfo:
    """A node like this one, but for some versions."""
    return NodeInfo(versions=nodes.own_versions() | versions, gpus=[], token=True)


def test_versions(monkeypatch):
    same = {"python": "3", "ray": "2", "torch": "4", "lfvd": "1", "commit": "abc"}
    monkeypatch.setattr(nodes, "own_versions", lambda: same)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.1")
    result = nodes.check_versions({"10.0.0.1": a_node(), "10.0.0.2": a_node(commit="none")}, total=2)
    assert (result.status, result.message) == (
        "ok",
        "python 3, ray 2, torch 4, lfvd 1, commit abc on all 2 nodes",
    )
    for key in same:
        result = nodes.check_versions({"10.0.0.1": a_node(), "10.0.0.2": a_node(**{key: "0.1"})}, total=2)
        assert (result.status, result.message) == ("warning", f"{key} is {same[key]} on 10.0.0.1, 0.1 on 10.0.0.2")
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.2")
    result = nodes.check_versions({"10.0.0.1": a_node(), "10.0.0.2": a_node(torch="0.1")}, total=2)
    assert result.message == "torch is 4 on this machine, 10.0.0.1, 0.1 on 10.0.0.2", "Ray here has another torch"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        ("ModuleNotFoundError: No module named 'tune'", "error", "cannot run trials"),
        ("no answer within 60 s", "warning", "did not answer"),
        ("RuntimeError: CUDA error", "warning", "did not answer"),
    ],
)
def test_a_node_that_sends_an_error(two_cores, error, status, text):
    found = {"10.0.0.1": a_node(), "10.0.0.2": error}
    result, versions, _ = nodes.check_nodes(make_plan(), found, None)
    assert (result.status, result.message) == (status, f"node 10.0.0.2 {text} ({error})")
    assert versions.message.endswith(" on 1 of 2 nodes")


def test_access():
    closed, bare = a_node(), replace(a_node(), token=False)
    assert nodes.check_access({"10.0.0.1": closed}).status == "ok"
    result = nodes.check_access({"10.0.0.1": closed, "10.0.0.2": bare})
    assert result.status == "warning"
    assert str(result) == (
        "Ray on 10.0.0.2 asks for no token, so that whoever reaches it can run code as you: start it with RAY_AUTH_MODE=token "
        "and the same ~/.ray/auth_token on all nodes"
    )


def test_gpus(monkeypatch):
    card, counted = [("Card", 80 * 10**9)], {"10.0.0.1": 1, "10.0.0.2": 2}
    monkeypatch.setattr(ray_cluster, "counted_gpus", lambda: counted)
    reports = {f"10.0.0.{i}": replace(a_node(), gpus=card * i) for i in (1, 2)}
    plan = make_plan(resources={"gpu": 0.5})
    seen = "torch sees 1 x Card of 80.0 GB on 10.0.0.1, 2 x Card of 80.0 GB on 10.0.0.2"
    result = nodes.check_gpus(plan, reports)
    assert (result.status, result.message) == ("ok", seen)
    counted["10.0.0.2"] = 8
    result = nodes.check_gpus(plan, reports)
    assert (result.status, result.message) == (
        "warning",
        "Ray counts 8 GPUs on 10.0.0.2, but torch sees 2 there, so that trials may train on the CPU",
    )
    assert nodes.check_gpus(make_plan(), reports).message == f"the plan uses none ({seen})"
    here = {nodes.THIS_MACHINE: a_node()}
    assert nodes.check_gpus(plan, here).status == "warning"
    counted.update({"10.0.0.1": 0, "10.0.0.2": 0})
    assert nodes.check_gpus(plan, here).status == "ok"


def test_nodes_are_waited_for_together(monkeypatch):
    """Three that never answer: no longer than for one."""
    waited = []

    def get(answer: object, timeout: float) -> None:
        waited.append(timeout)
        raise ray_cluster.ray.exceptions.GetTimeoutError

    alive = [{"Alive": True, "NodeID": "0" * 56, "NodeManagerAddress": f"10.0.0.{i}"} for i in (1, 2, 3)]
    asking = SimpleNamespace(remote=lambda *_: object())
    monkeypatch.setattr(ray_cluster.ray, "nodes", lambda: alive)
    monkeypatch.setattr(ray_cluster.ray, "remote", lambda **_: lambda question: asking)
    monkeypatch.setattr(ray_cluster.ray, "wait", lambda answers, num_returns, timeout: waited.append(timeout))
    monkeypatch.setattr(ray_cluster.ray, "get", get)
    monkeypatch.setattr(ray_cluster.ray, "cancel", lambda *_, **__: None)
    answers = ray_cluster.run_on_each_node(nodes.describe_node)
    assert answers == {f"10.0.0.{i}": "no answer within 60 s" for i in (1, 2, 3)}
    assert sum(waited) == 60


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of this module's own, since a node joins it and leaves."""
    with own_cluster(cpus=1) as (where, _):
        yield where


@contextlib.contextmanager
def second_node(address: str, path: Path) -> Iterator[None]:
    """A second node on this machine, 127.0.0.3, whose Python searches `path` first; it has registered when this yields."""
    scratch = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short: it goes into socket names
    argv = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    argv += [f"--address={address}", "--node-ip-address=127.0.0.3", "--num-cpus=1", "--num-gpus=0"]
    argv += [f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={scratch}"]
    environment = {"RAY_AUTH_MODE": "disabled", **os.environ, "PYTHONPATH": str(path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as node:
        try:
            lines = iter(node.stdout.readline, "")
            assert any("Ray runtime started" in line for line in lines), "the node did not start"
            yield
        finally:
            node.terminate()
            node.stdout.read()
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.mark.slow
def test_a_node_with_another_torch(connected, address, tmp_path):
    entry = tmp_path / "torch-1.2.3.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.2.3\n")
    with second_node(address, tmp_path):
        answers = ray_cluster.run_on_each_node(nodes.describe_node)
        assert answers["127.0.0.3"].versions["torch"] == "1.2.3", answers
        versions, *_ = nodes.check_nodes(make_plan(), answers, address)
        ours = nodes.own_versions()["torch"]
        assert (versions.status, versions.message) == (
            "warning",
            f"torch is {ours} on 127.0.0.2, 1.2.3 on 127.0.0.3",
        )
        assert doctor.check_storage(str(tmp_path), named=False).message == f"{tmp_path} is writable, by all 2 nodes"
