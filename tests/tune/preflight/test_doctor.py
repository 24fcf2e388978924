"""Preflight checks: each with what makes it fail, as far as one machine allows for real; the command; what each search makes."""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lfvd.data.corpus import Corpus
from lfvd.data.simulate import simulate
from lfvd.files import write_yaml
from tests.helpers.plans import PLAN, make_plan
from tune.execution import ray_cluster
from tune.preflight import doctor, nodes
from tune.preflight.costs import EpochCost, file_sizes, resolve_gpu
from tune.preflight.result import CheckResult

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

DEAD_ADDRESS = (
    f"nothing answers at {DEAD}, which --address names: start a cluster there with `ray start --head`, or name another with "
    "--address HOST:PORT"
)


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


class TestAddress:
    @pytest.fixture(autouse=True)
    def no_other_ray(self, monkeypatch, tmp_path):
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        monkeypatch.setattr(ray_cluster.services, "find_gcs_addresses", frozenset)

    def test_a_variable_that_is_not_used(self, monkeypatch):
        assert doctor.check_address(None).status == "ok"
        monkeypatch.setenv("RAY_ADDRESS", DEAD)
        assert doctor.check_address(None) == CheckResult(
            "address",
            "warning",
            f"RAY_ADDRESS={DEAD} is not used, since --address is missing: this machine alone works",
            f"add --address {DEAD}, or unset RAY_ADDRESS",
        )
        result = doctor.check_address("auto")
        assert result.message == f"nothing answers at {DEAD}, which RAY_ADDRESS names"

    def test_whether_something_answers(self):
        result = doctor.check_address(DEAD)
        assert (result.status, str(result)) == ("error", DEAD_ADDRESS)
        with socket.create_server(("127.0.0.2", 0)) as server:
            address = f"127.0.0.2:{server.getsockname()[1]}"
            assert doctor.check_address(address) == CheckResult("address", "ok", f"{address} answers")

    @pytest.mark.parametrize("address", ["auto", "here"])
    def test_no_address(self, address):
        result = doctor.check_address(address)
        assert (result.status, str(result)) == (
            "error",
            f"--address {address}: leads to no Ray cluster: start one with `ray start --head`, or name its HOST:PORT",
        )

    def test_the_file_of_a_dead_cluster(self, tmp_path):
        """Ray itself would wait for it for a long time."""
        file = tmp_path / "ray" / "ray_current_cluster"
        file.parent.mkdir()
        file.write_text(DEAD)
        assert doctor.check_address("auto") == CheckResult(
            "address",
            "error",
            f"nothing answers at {DEAD}, which {file} names",
            f"remove {file}, which a dead cluster left, or name a cluster with --address HOST:PORT",
        )
        assert doctor.check_address(None).status == "ok", "nobody reads it then"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter; those above pytest's are closed."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("folder", "mode", "status"), [(0o755, 0o644, "warning"), (0o755, 0o600, "ok"), (0o700, 0o644, "ok")]
)
def test_token_file(open_folder, monkeypatch, folder, mode, status):
    file = open_folder / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert doctor.check_token_file().message == f"there is no token file {file}"
    file.write_text("secret")
    file.chmod(mode)
    open_folder.chmod(folder)
    result = doctor.check_token_file()
    assert result.status == status
    assert status == "ok" or str(result) == (
        f"{file} can be read by others, who can then run code as you on your Ray clusters: chmod 600 {file}"
    )


def test_resources(two_cores):
    result = doctor.check_resources(make_plan())
    assert (result.status, result.message) == (
        "ok",
        "2 at a time, each on 1 CPU and 0 GPU; the nodes have 2 CPU and 0 GPU",
    )
    assert doctor.check_resources(make_plan(resources={"max_concurrent": 1})).message.startswith("1 at a time")
    result = doctor.check_resources(make_plan(resources={"gpu": 0.25}))
    assert (result.status, str(result)) == (
        "error",
        "a trial asks 1 CPU and 0.25 GPU, but no node has that (there is 2 CPU and 0 GPU): lower `resources.cpu` or "
        "`resources.gpu` in the plan, or name a cluster with --address",
    )


def test_like_nodes_are_told_together(monkeypatch):
    monkeypatch.setattr(ray_cluster, "_nodes", lambda: [{"CPU": 8, "GPU": 1}, {"CPU": 2}, {"CPU": 8, "GPU": 1}])
    assert ray_cluster.on_offer() == "2 x 8 CPU and 1 GPU; 2 CPU and 0 GPU"


def test_storage_of_one_node(two_cores, tmp_path):
    result = doctor.check_storage(str(tmp_path / "new"), named=False)
    assert (result.status, result.message) == ("ok", f"{tmp_path}/new is writable")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    result = doctor.check_storage(str(tmp_path / "file" / "x"), named=False)
    assert (result.status, str(result)) == (
        "error",
        f"{tmp_path}/file/x cannot be written (Not a directory): check the path, its rights and the disk",
    )


@pytest.mark.parametrize(
    ("named", "status", "loss"),
    [(True, "error", ""), (False, "warning", ", so that a trial that loses its node starts over")],
)
def test_storage_that_nodes_do_not_share(monkeypatch, named, status, loss):
    unshared = {}
    monkeypatch.setattr(ray_cluster, "node_count", lambda: 3)
    monkeypatch.setattr(ray_cluster, "nodes_without", lambda storage: unshared)
    assert doctor.check_storage("/share", named=named).message == "/share is writable, by all 3 nodes"
    unshared |= {"10.0.0.2": "it is not there", "10.0.0.3": "x"}
    result = doctor.check_storage("/share", named=named)
    assert (result.status, str(result)) == (
        status,
        f"/share is not shared with node 10.0.0.2, 10.0.0.3 (it is not there){loss}: name a --storage that all nodes share: "
        "a folder, s3://… or gs://…",
    )


def test_disk(two_cores, tiny_corpus, tmp_path, monkeypatch):
    plan, disk = make_plan(), SimpleNamespace(total=10**9, free=0)
    checkpoint, weights = file_sizes(plan.config, tiny_corpus)
    checkpoints, weights = (
        2 * 2 * checkpoint,
        3 * 2 * weights,
    )  # of 2 at a time; of 2 finalists and the baseline, 2 seeds

    def status(free: int, folder: Path, storage: object) -> str:
        disk.free = free
        return doctor.check_disk(plan, tiny_corpus, folder, str(storage)).status

    assert doctor.check_disk(plan, tiny_corpus, tmp_path, str(tmp_path)).status == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    study = tmp_path / "study"
    assert status(checkpoints + weights, study, study / "checkpoints") == "ok"
    assert status(checkpoints + weights - 1, study, study / "checkpoints") == "error"
    result = doctor.check_disk(plan, tiny_corpus, study, str(study))
    assert "free, but the search needs" in result.message
    assert result.remedy == "make room, or name another --results or --storage"
    (study / "weights").mkdir(parents=True)
    (study / "weights" / "trial0-seed0.safetensors").write_bytes(bytes(weights))
    assert status(checkpoints, study, study) == "ok", "what is written needs no room"
    monkeypatch.setattr(doctor, "_mount", lambda path: path if path.name == "other" else tmp_path)
    other = tmp_path / "other"
    assert status(max(checkpoints, weights), tmp_path, other) == "ok", "each disk has room"
    assert status(checkpoints - 1, study, other) == "error", "what lies elsewhere is no room here"
    disk.free = weights
    result = doctor.check_disk(plan, tiny_corpus, tmp_path / "new", "s3://bucket/folder")
    assert result.status == "unknown"
    assert result.message.endswith("; the room in s3://bucket/folder is not known")


def test_the_disk_of_a_link_is_its_targets(tmp_path):
    (tmp_path / "link").symlink_to("/proc")
    assert doctor._mount(tmp_path / "link") == Path("/proc")
    assert doctor._mount(tmp_path / "new" / "folder") == doctor._mount(tmp_path)


def test_mlflow(tmp_path):
    """A warning at most, since a search goes on without it."""
    file = tmp_path / "mlflow.db"
    assert doctor.check_mlflow(f"sqlite:///{file}") == CheckResult("mlflow", "ok", f"{file} will be made")
    assert not file.exists()
    file.write_text("something else, which is no database")
    result = doctor.check_mlflow(f"sqlite:///{file}")
    assert (result.status, "file is not a database" in result.message) == ("warning", True)
    assert doctor.check_mlflow(f"http://user:secret@{DEAD}") == CheckResult(
        "mlflow",
        "warning",
        f"MLflow at http://{DEAD} does not work ([Errno 111] Connection refused)",
        "a search goes on without it; `lfvd-tune sync NAME` sends later what is missing",
    )


ON_CPU = EpochCost(seconds=2.0, memory=10**9)
ON_GPU = EpochCost(seconds=2.0, memory=3 * 10**9, device="Card", device_memory=3 * 10**9, device_free=20 * 10**9)
GPU_EPOCH = "2 s with the base config; a trial takes 3.0 GB of memory and 3.0 GB of Card (20.0 GB free): 6 fit"


def test_epoch_on_a_cpu(two_cores):
    message = "2 s with the base config; a trial takes 1.0 GB of memory"
    assert doctor.check_epoch(make_plan(), ON_CPU) == CheckResult("epoch", "ok", message)
    result = doctor.check_epoch(make_plan(), replace(ON_CPU, memory=5 * 10**9))
    assert (result.status, result.remedy) == (
        "warning",
        "set `resources.max_concurrent: 1`, or raise `resources.cpu`",
    )
    assert result.message.endswith("; 2 run at a time, but the nodes' memory holds 1")


@pytest.mark.parametrize(
    ("gpu", "status", "message"),
    [
        (0.25, "ok", GPU_EPOCH),
        (0.125, "warning", f"{GPU_EPOCH}, but 8 share it"),
        ("auto", "ok", f"{GPU_EPOCH}; `gpu: auto` is 0.167"),
    ],
)
def test_epoch_on_a_gpu(monkeypatch, gpu, status, message):
    monkeypatch.setattr(ray_cluster, "_nodes", lambda: [{"CPU": 16, "GPU": 1, "memory": 100e9}])
    result = doctor.check_epoch(resolve_gpu(make_plan(resources={"gpu": gpu}), ON_GPU), ON_GPU)
    assert (result.status, result.message) == (status, message)


def test_cost(two_cores):
    plan = make_plan(budget={"wall": "2m"}, trials=600)
    assert doctor.describe_cost(plan, ON_CPU).message == (
        "search about 2:00 of training (ended by `budget.wall`), confirmation about 0:24; 2 trials at a time; for "
        "trials of random merit, at the base's time an epoch"
    )
    plan = make_plan(resources={"gpu": 0.5}, trials=1, scheduler={"kind": "none", "max_epochs": 80})
    message = doctor.describe_cost(plan, replace(ON_GPU, seconds=123 * 3600 / (0.5 * 7 * 80))).message
    assert "; about 123 GPU-hours; " in message


def test_a_timed_epoch_that_fails(two_cores, tiny_corpus, tmp_path, monkeypatch):
    """Its worker gets no test split; disk is checked all the same."""
    corpora: list[Corpus] = []
    monkeypatch.setattr(doctor, "time_epoch", lambda plan, corpus: corpora.append(corpus) or "NonFiniteLoss: epoch 1")
    epoch, disk = doctor._check_trials(make_plan(), tiny_corpus, tmp_path, str(tmp_path))
    assert (epoch.status, epoch.message) == ("error", "the timed epoch failed (NonFiniteLoss: epoch 1)")
    assert (disk.check, disk.status) == ("disk", "ok")
    assert [len(corpus.indices("test")) for corpus in (*corpora, tiny_corpus)] == [0, 3]


def test_before_a_search_on_this_machine(two_cores, make_study, tiny_corpus, monkeypatch):
    """No worker is asked, which would take seconds."""
    for name in ("run_on_each_node", "run_once"):
        monkeypatch.setattr(ray_cluster, name, lambda *_, **__: pytest.fail("a worker was asked"))
    found = doctor.check_in_cluster(make_study(), tiny_corpus, None)
    assert {result.check: result.status for result in found} == dict.fromkeys(
        ("versions", "gpus", "storage", "disk"), "ok"
    )


@pytest.mark.slow
def test_in_a_cluster(connected, address, make_study, tiny_corpus):
    """On two cores and two GPUs that are numbers only."""
    found = doctor.check_in_cluster(make_study(resources={"gpu": 0.5}), tiny_corpus, address)
    status = {result.check: result.status for result in found}
    [node] = ray_cluster.run_on_each_node(nodes.describe_node).values()
    access = "ok" if node.token else "warning"
    assert status == {"versions": "ok", "access": access, "gpus": "warning", "storage": "ok", "disk": "ok"}
    [gpus] = [result for result in found if result.check == "gpus"]
    assert str(gpus) == (
        "Ray counts 2 GPUs on 127.0.0.2, but torch sees 0 there, so that trials may train on the CPU: install the GPUs' "
        "driver and a torch for it, or start Ray with the `--num-gpus` that there are"
    )


def run(*argv: object) -> subprocess.CompletedProcess:
    """The command, piped, on 80 columns."""
    environment = {**os.environ, "COLUMNS": "80"}
    environment.pop("RAY_ADDRESS", None)
    command = [str(Path(sys.executable).with_name("lfvd-tune")), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


CHECKS = ["address", "token", "resources", "storage", "versions", "gpus", "mlflow", "epoch", "disk", "estimate"]


@pytest.mark.slow
def test_the_command(data, tmp_path):
    """All well: a line for each check, exit 0, and nothing left behind but the folder of results."""
    done = run("doctor", plan_file(tmp_path / "p.yaml"), "--data", data, "--results", tmp_path / "results")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line[0] in "✓✗?"] == CHECKS
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


@pytest.mark.slow
def test_a_search_with_auto_gpu(data, tmp_path):
    """One line says what it came to, in each session."""
    short = {"trials": 2, "confirm": {"folds": 0, "finalists": 1, "seeds": [0]}}
    short |= {"space": {"model.heads": {"choices": [2, 4]}}}  # which has no edge to be warned of
    file = plan_file(tmp_path / "p.yaml", **short, resources={"gpu": "auto"})
    for _ in range(2):
        done = run("search", file, "--data", data, "--name", "auto", "--results", tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        assert done.stdout.startswith("`gpu: auto`: no node has a GPU now, ")
    assert "warning" not in done.stdout


def test_the_commands_without_a_cluster(data, tmp_path, capsys):
    """The doctor tells it as a result; a search ends at once, in one sentence. What needs a cluster is not asked."""
    from tune.cli import main

    argv = [plan_file(tmp_path / "p.yaml"), "--data", data, "--results", tmp_path, "--address", DEAD]
    with pytest.raises(SystemExit) as end:
        main(["doctor", *map(str, argv)])
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (1, "")
    assert f"✗ address   nothing answers at {DEAD}, which --address names" in out
    assert "resources" not in out
    with pytest.raises(SystemExit) as end:
        main(["search", *map(str, argv)])
    assert (end.value.code, capsys.readouterr().err) == (2, f"lfvd-tune: {DEAD_ADDRESS}\n")
