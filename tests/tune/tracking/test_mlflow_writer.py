"""The projection into MLflow: right, complete, repeatable, after crashes too, and never in the way of the search."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from lfvd.data.corpus import Corpus
from lfvd.files import write_yaml
from tune.plan import SearchPlan
from tune.search.samplers import sampler_for, training_seed
from tune.search.trials import FAILURE, STOPPED
from tune.study.study import OBJECTIVE, DataSource, Study
from tune.tracking import mlflow_writer
from tune.tracking.mlflow_runs import runs_of
from tune.tracking.mlflow_writer import Tracker, TrackingError, default_uri, describe_server, sync

# The import of mlflow.store: SQLAlchemy 2.1 deprecates a loader that MLflow 3.17 uses.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

SEEDS = (0, 1, 2, 3, 4)
CLASSES = ("calm", "glad", "sad")
STATES = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]


def start(folder: Path, corpus: Corpus, **info: str) -> Study:
    """An empty study."""
    space = {
        "optim.lr": {"low": 1e-5, "high": 1e-2, "log": True},
        "loss.temperature": {"low": 0.05, "high": 1.0, "log": True},
        "model.heads": {"choices": [1, 2, 4, 8]},
    }
    source = {"base": "meld", "space": space, "trials": 12, "confirm": {"finalists": 2, "seeds": list(SEEDS)}}
    plan = SearchPlan.from_dict(source, source="plan", folder=folder)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return Study.start(folder, plan, DataSource.of(corpus, "tiny.safetensors"), {"commit": "abc123", **info})


def record(epoch: int, score: float, best: float, classes: tuple[str, ...] = CLASSES) -> dict:
    """An epoch's record as lfvd.training.trainer makes it."""
    val = {"val/loss": 1 - score, "val/wf1": score, "val/acc": score + 0.01}
    f1 = {f"val/f1/{name}": score - 0.1 * i for i, name in enumerate(classes)}
    return {"epoch": epoch, "seconds": 1.5, "train/loss": 2 / epoch, **val, **f1, OBJECTIVE: best}


def begin(study: Study) -> optuna.Trial:
    """The next trial; the baseline first."""
    if not study.optuna.get_trials(deepcopy=False):
        study.optuna.enqueue_trial(study.plan.baseline)
    study.optuna.sampler = sampler_for(study.plan, len(study.trials))
    return study.optuna.ask({key: p.distribution for key, p in study.plan.space.items()})


def train(study: Study, trial: optuna.Trial, scores: list[float], *, first: int = 1) -> None:
    """Report epochs from `first` on."""
    seed = training_seed(study.plan.sampler, trial.number, taken=SEEDS)
    for i, score in enumerate(scores):
        study.append_epoch("search", trial.number, seed, record(first + i, score, max(scores[: i + 1])))
        trial.report(max(scores[: i + 1]), first + i)


def finish(study: Study, trial: optuna.Trial, state: TrialState, value: float = 0.5) -> None:
    """Tell how a trial ended."""
    if state == TrialState.PRUNED:
        trial.set_user_attr(STOPPED, "rung 3: 0.31 is below 0.40")
    if state == TrialState.FAIL:
        trial.set_user_attr(FAILURE, "the loss is nan in epoch 2")
    study.optuna.tell(trial, value if state == TrialState.COMPLETE else None, state=state)


def search(study: Study, trials: int) -> None:
    """Trials that end in each way in turn."""
    rng = np.random.default_rng(len(study.trials))
    for i in range(trials):
        trial = begin(study)
        state = STATES[i % 3]
        train(study, trial, list(rng.uniform(0.3, 0.6, 9 if state == TrialState.COMPLETE else 3)))
        finish(study, trial, state)


def confirm(study: Study, trial: int, seed: int, scores: list[float], *, done: bool = True) -> None:
    """A confirmation run."""
    for i, score in enumerate(scores):
        study.append_epoch("confirm", trial, seed, record(i + 1, score, max(scores[: i + 1])))
    if done:
        best = int(np.argmax(scores))
        val = {k: v for k, v in record(best + 1, scores[best], scores[best]).items() if k.startswith("val/")}
        run = {"trial": trial, "seed": seed, "best_epoch": best + 1, "epochs": len(scores), "seconds": 3.0}
        study.append_confirmed({**run, **val})


def confirm_all(study: Study, *trials: int) -> dict[tuple[int, int], float]:
    """All seeds of some finalists; returns each run's best validation W-F1."""
    rng = np.random.default_rng(7)
    best = {}
    for trial in trials:
        for seed in SEEDS:
            scores = list(rng.uniform(0.4, 0.6, 4))
            confirm(study, trial, seed, scores)
            best[trial, seed] = max(scores)
    return best


def look(study: Study, *trials: int) -> dict[int, list[dict[str, float]]]:
    """Test scores of some finalists, entered in the ledger."""
    rng = np.random.default_rng(8)
    names = ["wf1", "acc", *(f"f1/{c}" for c in CLASSES)]
    scores = {t: [{f"test/{n}": float(rng.uniform(0.4, 0.6)) for n in names} for _ in SEEDS] for t in trials}
    study.append_look({"trials": list(trials), "seeds": list(SEEDS)})
    study.append_test_scores(scores)
    return scores


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    """One database for all tests: making its tables takes seconds."""
    return default_uri(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def study(tmp_path, tiny_corpus, request) -> Study:
    return start(tmp_path / request.node.name, tiny_corpus)


def held(uri: str, name: str) -> dict[str, object]:
    """What MLflow holds of an experiment: name → run."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    runs = {run.info.run_name: run for run in found}
    assert len(runs) == len(found), "a run is there twice"
    return runs


def head(uri: str, name: str) -> str:
    """What stands at the head of an experiment."""
    from mlflow import MlflowClient

    return MlflowClient(uri).get_experiment_by_name(name).tags["mlflow.note.content"]


def points(uri: str, run: object) -> dict[str, list[tuple[int, float]]]:
    """All points of all metrics of a run."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return {k: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, k)] for k in run.data.metrics}


def test_runs_are_trials(study, uri):
    search(study, 6)
    sync(study, uri)
    runs = held(uri, study.name)
    assert set(runs) == {"trial 0 (baseline)", *(f"trial {i}" for i in range(1, 6))}
    assert [runs[f"trial {i}"].info.status for i in (3, 4, 5)] == ["FINISHED", "FINISHED", "FAILURE"]
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
    assert points(uri, run) == {k: [(r["epoch"], r[k]) for r in epochs] for k in names}


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
    assert [len(points(uri, c)["val/wf1"]) for c in children] == [4] * 5
    assert {r.info.status for n, r in runs.items() if "seed" in n or "finalist" in n} == {"FINISHED"}

    scores = look(study, 3, 0)
    (study.folder / "best.yaml").write_text("provenance: {trial: 3}\n", encoding="utf-8")
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
    note = f"**{wf1_of_3}**: mean ± standard deviation over 5 of 5 seeds"
    assert parent.data.tags["mlflow.note.content"] == note
    assert head(uri, study.name).startswith(f"**trial 3, winner: {wf1_of_3}; trial 0 (baseline): W-F1 ")
    winners = {n: r.data.tags["winner"] for n, r in runs.items() if "winner" in r.data.tags}
    assert winners == {"finalist: trial 3, winner": "true", "finalist: trial 0 (baseline)": "false"}


def test_averages_grow_with_the_seeds(study, uri):
    search(study, 1)
    for seed, score in ((0, 0.5), (1, 0.6)):
        confirm(study, 0, seed, [score])
        sync(study, uri)
    confirm(study, 0, 2, [0.7], done=False)
    sync(study, uri)
    parent = held(uri, study.name)["finalist: trial 0 (baseline)"]
    assert points(uri, parent)["val/wf1_mean"] == [(1, 0.5), (2, 0.55)]
    assert points(uri, parent)["seeds"] == [(1, 1), (2, 2)]
    assert parent.info.status == "SCHEDULED"
    assert "over 2 of 5 seeds" in parent.data.tags["mlflow.note.content"]


def test_a_finalist_without_any_seed_done(study, uri):
    search(study, 1)
    confirm(study, 0, 0, [0.5], done=False)
    sync(study, uri)
    assert held(uri, study.name)["finalist: trial 0 (baseline)"].data.metrics == {"seeds": 0}
    assert head(uri, study.name).startswith("**There is no winner yet**")


def test_again_sends_nothing(study, uri, monkeypatch):
    from mlflow import MlflowClient

    search(study, 3)
    begin(study)
    confirm_all(study, 0)
    look(study, 0)
    sync(study, uri)
    before = {name: points(uri, run) for name, run in held(uri, study.name).items()}
    for name in ("create_run", "update_run", "set_terminated", "create_experiment", "set_experiment_tag"):
        monkeypatch.setattr(MlflowClient, name, lambda *a, name=name, **k: pytest.fail(f"called {name}"))

    def empty(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
        assert not [*metrics, *params, *tags]

    monkeypatch.setattr(MlflowClient, "log_batch", empty)
    sync(study, uri)
    assert {name: points(uri, run) for name, run in held(uri, study.name).items()} == before


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
    assert {n: r.info.status for n, r in runs.items() if n != "trial 2"} == dict.fromkeys(
        [n for n in runs if n != "trial 2"], "FINISHED"
    )
    assert [s for s, _ in points(uri, runs["trial 0 (baseline)"])["val/wf1"]] == list(range(1, 10))
    assert [s for s, _ in points(uri, runs["trial 0 (baseline), seed 4"])["val/f1/sad"]] == [1, 2, 3, 4]


def test_many_epochs_arrive_whole_and_in_order(study, uri, monkeypatch):
    monkeypatch.setattr(mlflow_writer, "MOST", 20)  # two epochs a batch
    trial = begin(study)
    train(study, trial, [0.5] * 7)
    sync(study, uri)
    history = points(uri, held(uri, study.name)["trial 0 (baseline)"])
    assert all([step for step, _ in steps] == list(range(1, 8)) for steps in history.values())


def wait_for(condition, seconds: float = 60.0) -> None:
    """Until a condition holds, which the tracker's thread brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_running_only_while_it_runs(study, uri):
    search(study, 1)
    trial = begin(study)
    with Tracker(study, uri, every=0.05) as tracker:
        wait_for(lambda: tracker._sender and "trial1" in tracker._sender.held)
        train(study, trial, [0.4, 0.5])
        wait_for(lambda: tracker._sender.epoch.get("trial1") == 2)
        running = held(uri, study.name)["trial 1"]
        assert (running.info.status, running.data.tags["state"]) == ("RUNNING", "running")
    assert tracker.problem is None
    interrupted = held(uri, study.name)["trial 1"]
    assert (interrupted.info.status, interrupted.data.tags["state"]) == ("SCHEDULED", "interrupted")

    again = Study.open(study.folder)
    trial = optuna.Trial(again.optuna, again.trials[1]._trial_id)
    with Tracker(again, uri, every=0.05) as tracker:
        train(again, trial, [0.6], first=3)
        wait_for(lambda: held(uri, study.name)["trial 1"].info.status == "RUNNING")
        finish(again, trial, TrialState.COMPLETE)
    runs = held(uri, study.name)
    assert len(runs) == 2
    assert runs["trial 1"].info.run_id == interrupted.info.run_id
    assert runs["trial 1"].info.status == "FINISHED"
    assert [step for step, _ in points(uri, runs["trial 1"])["val/wf1"]] == [1, 2, 3]


def test_only_the_stage_at_work_runs(study):
    search(study, 1)
    begin(study)  # stays unfinished: the budget is spent
    confirm(study, 0, 0, [0.5], done=False)
    status = {run.key: run.status for run in runs_of(study, live=True)}
    expected = {"trial0": "FINISHED", "trial1": "SCHEDULED", "finalist0": "RUNNING", "finalist0-seed0": "RUNNING"}
    assert status == expected
    assert "RUNNING" not in {run.status for run in runs_of(study, live=False)}


def test_tracker_reads_while_the_search_writes(study, uri):
    with Tracker(study, uri, every=0.001) as tracker:
        search(study, 12)
        confirm_all(study, 0, 3)
    assert tracker.problem is None
    assert len(held(uri, study.name)) == 12 + 2 + 10
    reopened = Study.open(study.folder)
    assert [t.state for t in reopened.trials] == STATES * 4


def test_the_study_is_only_read(study, uri):
    search(study, 3)
    confirm_all(study, 0)
    before = {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file()}
    sync(study, uri)
    assert {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file()} == before


def test_nothing_to_send_yet(study, uri):
    sync(study, uri)
    from mlflow import MlflowClient

    assert MlflowClient(uri).get_experiment_by_name(study.name) is None


def test_files_of_the_winner(study, uri):
    from mlflow import MlflowClient

    search(study, 1)
    confirm_all(study, 0)
    write_yaml(study.folder / "best.yaml", {"provenance": {"trial": 0}})
    (study.folder / "confusion_test.png").write_bytes(b"png")
    (study.folder / "report.html").write_text("<!doctype html>")
    sync(study, uri)
    run = held(uri, study.name)["finalist: trial 0 (baseline), winner"]
    files = MlflowClient(uri).list_artifacts(run.info.run_id)
    assert [f.path for f in files] == ["best.yaml", "confusion_test.png", "report.html"]
    assert run.info.artifact_uri.startswith((study.folder.parent / "mlartifacts").as_uri())


def test_a_new_study_of_an_old_name_does_not_mix_with_it(study, uri, tiny_corpus):
    from mlflow import MlflowClient

    search(study, 1)
    sync(study, uri)
    shutil.rmtree(study.folder)
    time.sleep(0.001)
    new = start(study.folder, tiny_corpus)
    search(new, 2)
    sync(new, uri)
    sync(new, uri)
    assert len(held(uri, study.name)) == 1
    names = [e.name for e in MlflowClient(uri).search_experiments(filter_string=f"name LIKE '{study.name}%'")]
    second = next(n for n in names if n != study.name)
    assert re.fullmatch(rf"{study.name} \(\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)", second)
    assert len(held(uri, second)) == 2


def test_what_a_person_deleted_stays_deleted(study, uri):
    from mlflow import MlflowClient

    search(study, 3)
    sync(study, uri)
    MlflowClient(uri).delete_run(held(uri, study.name)["trial 2"].info.run_id)
    sync(study, uri)
    assert set(held(uri, study.name)) == {"trial 0 (baseline)", "trial 1"}


def test_names_and_texts_that_mlflow_does_not_take(study, uri):
    trial = begin(study)
    odd = record(1, 0.5, 0.5, classes=("happy (loud)", "traurig+ß"))
    study.append_epoch("search", 0, training_seed(study.plan.sampler, 0, taken=SEEDS), odd)
    trial.set_user_attr(FAILURE, "x" * 9000)
    study.optuna.tell(trial, state=TrialState.FAIL)
    sync(study, uri)
    run = held(uri, study.name)["trial 0 (baseline)"]
    assert {"val/f1/happy _loud_", "val/f1/traurig_ß"} <= run.data.metrics.keys()
    assert run.data.tags["failure"] == "x" * 5000


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_is_down_costs_nothing(study, uri):
    down = f"http://user:secret@127.0.0.1:{closed_port()}"
    with Tracker(study, down, every=0.05) as tracker:
        search(study, 2)
        wait_for(lambda: tracker.problem)
        start = time.monotonic()
    assert time.monotonic() - start < 5
    assert tracker.problem == (
        f"MLflow at {down.replace('user:secret@', '')} does not work ([Errno 111] Connection refused); nothing is lost: "
        f"`lfvd-tune sync {study.name} --results {study.folder.parent} --tracking-uri "
        f"{down.replace('user:secret@', '')}` sends it later"
    )
    with pytest.raises(TrackingError, match="Connection refused"):
        sync(study, down)
    sync(study, uri)
    assert len(held(uri, study.name)) == 2


def test_the_problem_goes_when_it_works_again(study, uri, monkeypatch):
    from mlflow import MlflowClient

    search(study, 1)
    with Tracker(study, uri, every=0.05) as tracker:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "search_runs", lambda *a, **k: 1 / 0)
            wait_for(lambda: tracker.problem)
            assert "division by zero" in tracker.problem
        wait_for(lambda: tracker.problem is None)
    assert len(held(uri, study.name)) == 1


def test_a_server_that_never_answers_is_not_waited_for(study, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    search(study, 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Tracker(study, address, patience=0.5) as tracker:
            start = time.monotonic()
        assert time.monotonic() - start < 60
    assert tracker.problem == (
        f"MLflow at {address} is too slow to wait for; nothing is lost: `lfvd-tune sync {study.name} --results "
        f"{study.folder.parent} --tracking-uri {address}` sends it later"
    )


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
                f"MLflow at {uri} refuses the host name (403): start it with `--allowed-hosts 127.0.0.1`, or name it by its "
                "IP address"
            )


def test_importing_it_does_not_import_mlflow():
    code = "import sys, tune.tracking.mlflow_writer; assert not {'mlflow', 'alembic', 'sqlalchemy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow
def test_a_real_server(study, capfd):
    """Down when the search begins, killed in its middle, and back each time: MLflow has all in the end, each once."""
    port = closed_port()
    place = study.folder.parent
    args = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", default_uri(place), "--artifacts-destination", str(place / "served")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

    @contextlib.contextmanager
    def real_server():
        with (place / "server.log").open("a") as log:
            argv = [sys.executable, "-m", "mlflow", *args, *stores]
            server = subprocess.Popen(argv, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True)
            try:
                yield
            finally:
                os.killpg(server.pid, signal.SIGKILL)  # with its workers
                server.wait()

    address = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        with Tracker(study, address, every=0.2) as tracker:
            search(study, 4)
            wait_for(lambda: tracker.problem)
            with real_server():
                wait_for(lambda: tracker.problem is None, 120)
                confirm_all(study, 3)
            wait_for(lambda: tracker.problem)
            confirm_all(study, 0)
            look(study, 3, 0)
            write_yaml(study.folder / "best.yaml", {"provenance": {"trial": 3}})
            stack.enter_context(real_server())
            wait_for(lambda: tracker.problem is None, 120)
        assert tracker.problem is None
        runs = held(address, study.name)
        assert len(runs) == 4 + 2 + 10
        from mlflow import MlflowClient

        files = MlflowClient(address).list_artifacts(runs["finalist: trial 3, winner"].info.run_id)
        assert [f.path for f in files] == ["best.yaml"]
        before = {name: points(address, run) for name, run in runs.items()}
        sync(study, address)
        assert {name: points(address, run) for name, run in held(address, study.name).items()} == before
        assert capfd.readouterr() == ("", "")
