"""MLflow's copy of a study: right, complete, the same when sent again or after a crash, and never in the way of the search."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from lfvd.files import InputWarning, write_yaml
from tests.helpers.mlflow_studies import (
    CLASSES,
    SEEDS,
    STATES,
    begin,
    confirm,
    confirm_all,
    evaluate_test,
    finish,
    held,
    metric_points,
    record,
    search,
    start,
    train,
)
from tune.search.samplers import training_seed
from tune.search.trials import FAILURE
from tune.study.study import Study
from tune.tracking.mlflow_writer import (
    MlflowWriter,
    Tracker,
    TrackingError,
    default_uri,
    describe_server,
    sync,
)

# The import of mlflow.store: SQLAlchemy 2.1 deprecates a loader that MLflow 3.17 uses.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def client(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(uri)


def all_points(uri: str, name: str) -> dict[str, dict]:
    """Every metric point of every run of an experiment."""
    return {run_name: metric_points(uri, run) for run_name, run in held(uri, name).items()}


def test_runs_are_trials(study, uri):
    search(study, 6)
    sync(study, uri)
    runs = held(uri, study.name)
    assert set(runs) == {"trial 0 (baseline)", *(f"trial {i}" for i in range(1, 6))}
    assert [runs[f"trial {i}"].info.status for i in (3, 4, 5)] == ["FINISHED", "FINISHED", "FAILED"]
    assert [runs[f"trial {i}"].data.tags["state"] for i in (3, 4, 5)] == ["complete", "pruned", "fail"]
    assert runs["trial 4"].data.tags["stopped"] == "rung 3: 0.31 is below 0.40"
    assert runs["trial 5"].data.tags["failure"] == "the loss is nan in epoch 2"
    run, trial = runs["trial 3"], study.trials[3]
    seed = training_seed(study.plan.sampler, 3, taken=SEEDS)
    assert run.data.params == {k: str(v) for k, v in {**trial.params, "seed": seed}.items()}
    tags = {"stage": "search", "simulated": "audio", "fingerprint": study.data.fingerprint, "commit": "abc123"}
    assert tags.items() <= run.data.tags.items()
    assert run.info.end_time - run.info.start_time == 9 * 1500
    epochs = [r for r in study.epochs("search") if r["trial"] == 3]
    names = [k for k in epochs[0] if k.startswith(("val/", "train/"))]
    assert metric_points(uri, run) == {k: [(r["epoch"], r[k]) for r in epochs] for k in names}


def test_averages_are_numpys(study, uri):
    search(study, 4)
    best = confirm_all(study, 3, 0)
    sync(study, uri)
    runs = held(uri, study.name)
    assert len(runs) == 4 + 2 + 10
    parent = runs["finalist: trial 3"]
    wf1 = np.array([best[3, s] for s in SEEDS])
    assert parent.data.metrics == pytest.approx(
        {
            "val/wf1_mean": wf1.mean(),
            "val/wf1_std": wf1.std(ddof=1),
            "val/acc_mean": wf1.mean() + 0.01,
            **{f"val/f1/{name}_mean": wf1.mean() - 0.1 * i for i, name in enumerate(CLASSES)},
            "seeds": 5,
        },
        abs=1e-12,
    )
    children = [runs[f"trial 3, seed {s}"] for s in SEEDS]
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id}
    assert [c.data.metrics["val/wf1_best"] for c in children] == list(wf1)
    assert [len(metric_points(uri, c)["val/wf1"]) for c in children] == [4] * 5
    assert {r.info.status for n, r in runs.items() if "seed" in n or "finalist" in n} == {"FINISHED"}

    scores = evaluate_test(study, 3, 0)
    write_yaml(study.folder / "best.yaml", {"provenance": {"trial": 3}})
    (study.folder / "confusion_test.png").write_bytes(b"png")
    (study.folder / "report.html").write_text("<!doctype html>")
    sync(study, uri)
    runs = held(uri, study.name)
    assert len(runs) == 16
    parent = runs["finalist: trial 3, winner"]
    test = np.array([row["test/wf1"] for row in scores[3]])
    assert parent.data.metrics["test/wf1_mean"] == pytest.approx(test.mean(), abs=1e-12)
    assert parent.data.metrics["test/wf1_std"] == pytest.approx(test.std(ddof=1), abs=1e-12)
    assert {"test/acc_mean", *(f"test/f1/{c}_mean" for c in CLASSES)} <= parent.data.metrics.keys()
    assert runs["trial 3, seed 2"].data.metrics["test/acc"] == scores[3][2]["test/acc"]
    mean_std = f"{100 * wf1.mean():.2f} ± {100 * wf1.std(ddof=1):.2f}"
    tested = f"{100 * test.mean():.2f} ± {100 * test.std(ddof=1):.2f}"
    wf1_of_3 = f"W-F1 {mean_std} % on validation, {tested} % on test"
    note = f"**{wf1_of_3}**: mean ± standard deviation; validation and test over 5 of 5 seeds"
    assert parent.data.tags["mlflow.note.content"] == note
    note = client(uri).get_experiment_by_name(study.name).tags["mlflow.note.content"]
    assert note.startswith(f"**trial 3, winner: {wf1_of_3}; trial 0 (baseline): W-F1 ")
    winners = {n: r.data.tags["winner"] for n, r in runs.items() if "winner" in r.data.tags}
    assert winners == {"finalist: trial 3, winner": "true", "finalist: trial 0 (baseline)": "false"}
    files = client(uri).list_artifacts(parent.info.run_id)
    assert [f.path for f in files] == ["best.yaml", "confusion_test.png", "report.html"]
    assert parent.info.artifact_uri.startswith((study.folder.parent / "mlartifacts").as_uri())


def test_averages_grow_with_the_seeds(study, uri):
    search(study, 1)
    confirm(study, 0, 0, [0.5], done=False)
    sync(study, uri)
    name = "finalist: trial 0 (baseline)"
    assert held(uri, study.name)[name].data.metrics == {"seeds": 0}
    note = client(uri).get_experiment_by_name(study.name).tags["mlflow.note.content"]
    assert note.startswith("**There is no winner yet**")
    for seed, score in ((1, 0.5), (2, 0.6)):
        confirm(study, 0, seed, [score])
        sync(study, uri)
    parent = held(uri, study.name)[name]
    assert metric_points(uri, parent)["val/wf1_mean"] == [(1, 0.5), (2, 0.55)]
    assert metric_points(uri, parent)["seeds"] == [(0, 0), (1, 1), (2, 2)]
    assert parent.info.status == "SCHEDULED"
    assert "over 2 of 5 seeds" in parent.data.tags["mlflow.note.content"]


def test_again_sends_nothing_and_writes_nothing(study, uri, monkeypatch):
    from mlflow import MlflowClient

    search(study, 3)
    begin(study)
    confirm_all(study, 0)
    evaluate_test(study, 0)
    files = {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file()}
    sync(study, uri)
    before = all_points(uri, study.name)
    for name in ("create_run", "update_run", "set_terminated", "create_experiment", "set_experiment_tag"):
        monkeypatch.setattr(MlflowClient, name, lambda *a, name=name, **k: pytest.fail(f"called {name}"))

    def empty(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
        assert not [*metrics, *params, *tags]

    monkeypatch.setattr(MlflowClient, "log_batch", empty)
    sync(study, uri)
    assert all_points(uri, study.name) == before
    assert {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file()} == files


@pytest.mark.parametrize("after", ["create_run", "log_batch", "set_terminated"])
@pytest.mark.parametrize("call", [1, 3])
def test_a_crash_leaves_one_run_each(study, uri, monkeypatch, after, call):
    from mlflow import MlflowClient

    search(study, 3)
    confirm_all(study, 0)
    real, calls = getattr(MlflowClient, after), []

    def crashing(*args, **kwargs):
        found = real(*args, **kwargs)  # done, but nobody hears of it
        calls.append(found)
        if len(calls) == call:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, after, crashing)
        with pytest.raises(KeyboardInterrupt):
            sync(study, uri)
    sync(study, uri)
    runs = held(uri, study.name)
    assert len(runs) == 3 + 1 + 5
    assert {r.info.status for name, r in runs.items() if name != "trial 2"} == {"FINISHED"}
    points = all_points(uri, study.name)
    assert [step for step, _ in points["trial 0 (baseline)"]["val/wf1"]] == list(range(1, 10))
    assert [step for step, _ in points["trial 0 (baseline), seed 4"]["val/f1/sad"]] == [1, 2, 3, 4]


def test_a_crash_between_batches_loses_no_point(study, uri, monkeypatch):
    """MLflow's client sends long lists in batches: one may end within an epoch."""
    from mlflow.tracking._tracking_service import client as service

    monkeypatch.setattr(service, "MAX_METRICS_PER_BATCH", 10)
    monkeypatch.setattr(service, "MAX_ENTITIES_PER_BATCH", 14)
    train(study, begin(study), [0.5] * 7)
    writer = MlflowWriter(study, uri)
    store, batches = writer.client._tracking_client.store, []

    def crashing(*args, **kwargs):
        batches.append(kwargs)
        if len(batches) == 4:
            raise ConnectionError
        type(store).log_batch(store, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(store, "log_batch", crashing)
        with pytest.raises(ConnectionError):
            writer.update(live=False)
    steps = [len(points) for points in all_points(uri, study.name)["trial 0 (baseline)"].values()]
    assert min(steps) < max(steps), "an epoch has arrived in part"
    sync(study, uri)
    points = all_points(uri, study.name)["trial 0 (baseline)"]
    assert {tuple(step for step, _ in each) for each in points.values()} == {tuple(range(1, 8))}


def test_running_only_while_it_runs(study, uri):
    search(study, 1)
    trial = begin(study)
    writer = MlflowWriter(study, uri)
    for scores in ([], [0.4, 0.5]):
        train(study, trial, scores)
        writer.update(live=True)
        running = held(uri, study.name)["trial 1"]
        assert (running.info.status, running.data.tags["state"]) == ("RUNNING", "running")
    writer.update(live=False)
    interrupted = held(uri, study.name)["trial 1"]
    assert (interrupted.info.status, interrupted.data.tags["state"]) == ("SCHEDULED", "interrupted")

    again = Study.open(study.folder)
    writer = MlflowWriter(again, uri)
    trial = optuna.Trial(again.optuna, again.trials[1]._trial_id)
    train(again, trial, [0.6], first=3)
    writer.update(live=True)
    assert held(uri, study.name)["trial 1"].info.status == "RUNNING"
    finish(again, trial, TrialState.COMPLETE)
    writer.update(live=True)
    runs = held(uri, study.name)
    assert (len(runs), runs["trial 1"].info.run_id) == (2, interrupted.info.run_id)
    assert runs["trial 1"].info.status == "FINISHED"
    assert [step for step, _ in metric_points(uri, runs["trial 1"])["val/wf1"]] == [1, 2, 3]


def test_tracker_reads_while_the_search_writes(study, uri):
    with Tracker(study, uri, every=0.001) as tracker:
        search(study, 12)
        confirm_all(study, 0, 3)
    assert tracker.problem is None
    assert len(held(uri, study.name)) == 12 + 2 + 10
    assert [trial.state for trial in Study.open(study.folder).trials] == STATES * 4


def test_nothing_to_send_yet(study, uri):
    sync(study, uri)
    assert client(uri).get_experiment_by_name(study.name) is None


def test_a_new_study_of_an_old_name_does_not_mix_with_it(study, uri, tiny_corpus):
    search(study, 1)
    sync(study, uri)
    shutil.rmtree(study.folder)
    new = start(study.folder, tiny_corpus)
    search(new, 2)
    assert new.began != study.began
    sync(new, uri)
    sync(new, uri)
    assert len(held(uri, study.name)) == 1
    names = [e.name for e in client(uri).search_experiments(filter_string=f"name LIKE '{study.name}%'")]
    [second] = set(names) - {study.name}
    assert re.fullmatch(rf"{study.name} \(\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)", second)
    assert len(held(uri, second)) == 2


def test_what_a_person_deleted_stays_deleted(study, uri):
    search(study, 3)
    sync(study, uri)
    client(uri).delete_run(held(uri, study.name)["trial 2"].info.run_id)
    sync(study, uri)
    assert set(held(uri, study.name)) == {"trial 0 (baseline)", "trial 1"}


def test_names_and_texts_that_mlflow_does_not_take(study, uri):
    """And metrics under the names of older versions, which go by those of today."""
    trial = begin(study)
    odd = {**record(1, 0.5, 0.5, classes=("happy (loud)", "traurig+ß")), "train/loss_self": 0.1}
    study.log_epoch("search", 0, training_seed(study.plan.sampler, 0, taken=SEEDS), odd)
    trial.set_user_attr(FAILURE, "x" * 9000)
    study.optuna.tell(trial, state=TrialState.FAIL)
    with pytest.warns(InputWarning, match="`train/loss_self` is now `train/loss_cross_modal`"):
        sync(study, uri)
    run = held(uri, study.name)["trial 0 (baseline)"]
    assert {"val/f1/happy _loud_", "val/f1/traurig_ß", "train/loss_cross_modal"} <= run.data.metrics.keys()
    assert run.data.tags["failure"] == "x" * 5000


def test_what_has_ended_is_not_searched_for_again(study, uri, monkeypatch):
    """All runs are listed once, then only those that may have changed are searched for."""
    from mlflow import MlflowClient

    search(study, 3)
    train(study, begin(study), [0.5])
    sync(study, uri)
    filters, real = [], MlflowClient.search_runs

    def search_runs(self, experiments, text, view, **options):
        filters.append(text)
        return real(self, experiments, text, view, **{**options, "max_results": 3})

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "search_runs", search_runs)
        sync(study, uri)
    assert filters == ["tags.stage = 'search'"] * 2 + ["tags.`lfvd.key` = 'trial3'"], (
        "two pages, then the unfinished one"
    )
    assert len(held(uri, study.name)) == 4


@pytest.fixture
def closed_address() -> Iterator[str]:
    """An address that refuses connections: taken, so that nobody else listens there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_a_server_that_is_down_costs_nothing(study, uri, closed_address):
    """The password is not shown; what is missing is sent later."""
    down = f"http://user:secret@{closed_address}"
    with Tracker(study, down) as tracker:
        search(study, 2)
    assert tracker.problem == (
        f"MLflow at http://{closed_address} does not work ([Errno 111] Connection refused); nothing is lost: "
        f"`lfvd-tune sync {study.name} --results {study.folder.parent} --tracking-uri http://{closed_address}` sends it later"
    )
    with pytest.raises(TrackingError, match="Connection refused"):
        sync(study, down)
    sync(study, uri)
    assert len(held(uri, study.name)) == 2


def test_the_problem_goes_when_it_works_again(study, uri, monkeypatch):
    from mlflow import MlflowClient

    search(study, 1)
    tracker = Tracker(study, uri)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "search_runs", lambda *a, **k: 1 / 0)
        tracker.update(live=True)
    assert "division by zero" in tracker.problem
    tracker.update(live=True)
    assert tracker.problem is None
    assert len(held(uri, study.name)) == 1


def test_a_server_that_never_answers_is_not_waited_for(study, monkeypatch):
    """The tracker's last update hangs until the test lets it go."""
    answered = threading.Event()
    monkeypatch.setattr(MlflowWriter, "update", lambda *_, **__: answered.wait())
    address = "http://127.0.0.1:5000"
    with Tracker(study, address, patience=0) as tracker:
        pass
    assert tracker.problem == (
        f"MLflow at {address} is too slow to wait for; nothing is lost: `lfvd-tune sync {study.name} --results "
        f"{study.folder.parent} --tracking-uri {address}` sends it later"
    )
    answered.set()
    tracker._thread.join()


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


@contextlib.contextmanager
def serving(**answers: object) -> Iterator[str]:
    """A server that answers so → its address."""
    with HTTPServer(("127.0.0.1", 0), type("Handler", (Answering,), answers)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("version", "text"), [("3.17.2", "MLflow 3.17.2 at {}"), ("<html>", "MLflow at {} answers")])
def test_a_server_is_described(version, text):
    with serving(version=version) as uri:
        assert describe_server(uri) == text.format(uri)


def test_a_server_of_another_major_version():
    with serving(version="2.9.2") as uri, pytest.raises(TrackingError) as error:
        describe_server(uri)
    assert str(error.value).startswith(f"MLflow at {uri} is of version 2.9.2, which does not go with 3.")


def test_a_host_name_that_is_refused_is_named(study):
    from mlflow.server.security_utils import INVALID_HOST_MSG

    search(study, 1)
    with serving(status=403, text=INVALID_HOST_MSG) as uri:
        for call in (lambda: sync(study, uri), lambda: describe_server(uri)):
            with pytest.raises(TrackingError) as error:
                call()
            assert str(error.value).startswith(
                f"MLflow at {uri} refuses the host name (403): start it with `--allowed-hosts {uri[7:]}`, or name it by its "
                "IP address"
            )


def test_importing_it_does_not_import_mlflow():
    code = "import sys, tune.tracking.mlflow_writer; assert not {'mlflow', 'alembic', 'sqlalchemy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@contextlib.contextmanager
def real_server(folder, address: str) -> Iterator[None]:
    """MLflow's own server; it listens when this yields, and is killed after."""
    host, port = address.removeprefix("http://").split(":")
    argv = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", port, "--workers", "1"]
    argv += ["--allowed-hosts", f"{host}:{port}"]  # as the refusal advises
    argv += ["--backend-store-uri", default_uri(folder), "--artifacts-destination", str(folder / "served")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(argv, env={**os.environ, **quiet}, start_new_session=True, **output) as server:
        try:
            lines = iter(server.stdout.readline, "")
            assert any("Uvicorn running on" in line for line in lines), "the server did not start"
            threading.Thread(target=server.stdout.read, daemon=True).start()  # a full pipe would hold it up
            yield
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # with its workers


@pytest.mark.slow
def test_a_real_server(study, closed_address, capfd):
    """Down when the search begins, killed in its middle, and back each time: MLflow has all in the end, each once."""
    folder = study.folder.parent
    address = f"http://127.0.0.2:{closed_address.rpartition(':')[2]}"
    tracker = Tracker(study, address)
    search(study, 4)
    tracker.update(live=True)
    assert "Connection refused" in tracker.problem
    with real_server(folder, address):
        tracker.update(live=True)
        assert tracker.problem is None
        confirm_all(study, 3)
    tracker.update(live=True)
    assert tracker.problem
    confirm_all(study, 0)
    evaluate_test(study, 3, 0)
    write_yaml(study.folder / "best.yaml", {"provenance": {"trial": 3}})
    with real_server(folder, address):
        with tracker:
            pass
        assert tracker.problem is None
        runs = held(address, study.name)
        assert len(runs) == 4 + 2 + 10
        files = client(address).list_artifacts(runs["finalist: trial 3, winner"].info.run_id)
        assert [f.path for f in files] == ["best.yaml"]
        before = all_points(address, study.name)
        sync(study, address)
        assert all_points(address, study.name) == before
    assert capfd.readouterr() == ("", "")
