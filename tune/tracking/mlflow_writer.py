"""Writes a study's runs to MLflow, from the driver alone; the study is only read, and MLflow can be rebuilt from it.

sync(study, default_uri(Path("results")))                     brings MLflow up to date with the study's folder
with Tracker(study, uri) as tracker: …; tracker.problem       the same every ten seconds, in a thread of its own

A study is one experiment; tune.tracking.mlflow_runs says which runs it has. The tag `lfvd.key` identifies a run, and is searched
for before a run is made: after a crash at any point there is still one run for each.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import threading
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lfvd.files import InputError
from tune.study.study import OBJECTIVE, Study
from tune.tracking.mlflow_runs import MlflowRun, MlflowRuns, experiment_note

ENDED = ("FINISHED", "FAILED")
"""MLflow's statuses of a run that is over."""

ALL_RUNS = 3
"""MLflow's ViewType of active and deleted runs."""


class TrackingError(InputError):
    """MLflow cannot be reached, or refuses: nothing is lost, a later sync sends what is missing."""


def default_uri(results: Path) -> str:
    """The database `mlflow.db` beside the studies; artifacts go to `mlartifacts` there."""
    return f"sqlite:///{results.absolute() / 'mlflow.db'}"


def sync(study: Study, uri: str) -> None:
    """Bring MLflow up to date; unfinished runs count as interrupted. Raises TrackingError."""
    try:
        MlflowWriter(study, uri).update(live=False)
    except Exception as error:
        raise TrackingError(f"{_problem(uri, error)}; {_remedy(study, uri)}") from error


def describe_server(uri: str) -> str:
    """`MLflow 3.17.2 at URI`. Raises TrackingError where nothing answers, or a server of another major version."""
    try:
        _client(uri).search_experiments(max_results=1)
        from mlflow import __version__ as here  # after the client, which keeps the import quiet
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        version = here
        if uri.startswith(("http:", "https:")):
            version = http_request(get_default_host_creds(uri), "/version", "GET").text.strip()
    except Exception as error:
        raise TrackingError(_problem(uri, error)) from error
    if not re.match(r"\d+\.\d+", version):  # hosted servers may not tell
        return f"MLflow at {_without_password(uri)} answers"
    if version.partition(".")[0] != here.partition(".")[0]:
        raise TrackingError(
            f"MLflow at {_without_password(uri)} is of version {version}, which does not go with {here} here: "
            "start it from this environment"
        )
    return f"MLflow {version} at {_without_password(uri)}"


class Tracker:
    """Syncs every `every` seconds in a thread, and once more at the end, for which it waits at most `patience` seconds.

    A server that is down or slow delays nothing: `problem` describes it in one sentence until it works again, after the end
    with what is left to do.
    """

    def __init__(self, study: Study, uri: str, *, every: float = 10.0, patience: float = 30.0) -> None:
        self.study, self.uri, self.every, self.patience = study, uri, every, patience
        self.problem: str | None = None
        self._writer: MlflowWriter | None = None
        self._stop = threading.Event()
        # A daemon: a server that never answers must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        second_ctrl_c = kind is KeyboardInterrupt
        self._thread.join(min(3.0, self.patience) if second_ctrl_c else self.patience)
        if self._thread.is_alive():
            uri = _without_password(self.uri)
            self.problem = f"MLflow at {uri} is too slow to wait for; {_remedy(self.study, self.uri)}"

    def _work(self) -> None:
        while not self._stop.is_set():
            self.update(live=True)
            self._stop.wait(self.every)
        self.update(live=False)

    def update(self, *, live: bool) -> None:
        """Sync once, and set `problem`; live: the driver is at work."""
        try:
            self._writer = self._writer or MlflowWriter(self.study, self.uri)
            self._writer.update(live=live)
        except Exception as error:
            self._writer = None  # what has arrived is uncertain: the next update asks MLflow
            self.problem = f"{_problem(self.uri, error)}; {_remedy(self.study, self.uri)}"
        else:
            self.problem = None


class MlflowWriter:
    """Sends what MLflow lacks. After an error it must be replaced: it no longer knows what MLflow has."""

    def __init__(self, study: Study, uri: str) -> None:
        self.study, self.uri, self.client = study, uri, _client(uri)
        self.experiment: str | None = None
        self.note = ""
        self.held: dict[str, Any] = {}  # key → MLflow's own Run, of those that may change
        self.newest = 0  # start of the run that began last, in ms
        self.last_epoch: dict[str, int] = {}
        self.modified: dict[Path, int] = {}

    def update(self, *, live: bool) -> None:
        """Send what is missing; live: the driver is at work."""
        if self.study.began is None:
            return
        if self.experiment is None:
            self.experiment = self._find_or_create_experiment(self.study.began.astimezone(UTC))
            self.runs = MlflowRuns(self.study, finished=self._finished_trials())
        runs = self.runs.runs(live=live)
        for run in runs:
            held = self.held.get(run.key) or self._find(run) or self._create(run)
            self.newest = max(self.newest, held.info.start_time)
            if held.info.lifecycle_stage == "active":  # what a person deleted stays deleted
                held = self._send(run, held)
            if run.final:
                self.held.pop(run.key, None)
            else:
                self.held[run.key] = held
        note = experiment_note(self.study, runs)
        if note != self.note:
            self.client.set_experiment_tag(self.experiment, "mlflow.note.content", note)
            self.note = note

    def _find_or_create_experiment(self, began: datetime) -> str:
        """The study's experiment; its start is added to a name that another study took before, or that was deleted."""
        mark = began.isoformat()
        for name in (self.study.name, f"{self.study.name} ({began:%Y-%m-%d %H:%M:%S} UTC)"):
            found = self.client.get_experiment_by_name(name)
            if found is None:
                place = (self.study.folder.absolute().parent / "mlartifacts" / self.study.name).as_uri()
                local = not self.uri.startswith(("http:", "https:", "databricks"))
                tags = {"lfvd.study": mark}
                return str(self.client.create_experiment(name, artifact_location=place if local else None, tags=tags))
            if found.tags.get("lfvd.study") == mark and found.lifecycle_stage == "active":
                self.note = found.tags.get("mlflow.note.content", "")
                return str(found.experiment_id)
        raise TrackingError(f"the experiment `{name}` was deleted there: restore it")

    def _finished_trials(self) -> set[int]:
        """Trials whose runs MLflow has to their end: the status of an ended run is sent last."""
        trials, page = set(), None
        while page != "":
            found = self.client.search_runs([self.experiment], "tags.stage = 'search'", ALL_RUNS, page_token=page)
            for run in found:
                self.newest = max(self.newest, run.info.start_time)
                if run.info.status in ENDED:
                    trials.add(int(run.data.tags["lfvd.key"].removeprefix("trial")))
            page = found.token or ""
        return trials

    def _find(self, run: MlflowRun) -> Any | None:
        found = self.client.search_runs([self.experiment], f"tags.`lfvd.key` = '{run.key}'", ALL_RUNS)
        if found and run.epochs and found[0].info.lifecycle_stage == "active":
            history = self.client.get_metric_history(found[0].info.run_id, OBJECTIVE)
            self.last_epoch[run.key] = max((point.step for point in history), default=0)
        return found[0] if found else None

    def _create(self, run: MlflowRun) -> Any:
        tags = {"lfvd.key": run.key, **run.tags}
        if run.parent:
            tags["mlflow.parentRunId"] = self.held[run.parent].info.run_id
        start = int(1000 * (run.start.timestamp() if run.start else time.time() - run.seconds))
        if run.start is None:  # MLflow lists the newest first: finalists before trials
            start = max(start, 1 + self.newest)
        return self.client.create_run(self.experiment, start, tags, run.name)

    def _send(self, run: MlflowRun, held: Any) -> Any:
        """Bring one run up to date → as MLflow has it then. Its status is sent last, so that an ended run is complete."""
        from mlflow.entities import Metric, Param, RunTag

        info, data, now = held.info, held.data, int(1000 * time.time())
        values = {_metric_name(k): v for k, v in run.metrics.items() if math.isfinite(v)}
        metrics = [Metric(k, v, now, run.step) for k, v in values.items() if data.metrics.get(k) != v]
        metrics += self._new_epochs(run, info.start_time)
        params = [Param(k, str(v)) for k, v in run.params.items() if k not in data.params]
        tags = [RunTag(k, v) for k, v in run.tags.items() if data.tags.get(k) != v]
        self.client.log_batch(info.run_id, metrics, params, tags, synchronous=True)
        if run.epochs:
            self.last_epoch[run.key] = run.epochs[-1]["epoch"]
        for path in sorted(path for pattern in run.files for path in self.study.folder.glob(pattern)):
            if self.modified.get(path) != (modified := path.stat().st_mtime_ns):
                self.client.log_artifact(info.run_id, str(path))
                self.modified[path] = modified
        changed = info.run_name != run.name or info.status != run.status
        if info.status != run.status and run.status in ENDED:
            self.client.set_terminated(info.run_id, run.status, info.start_time + int(1000 * run.seconds))
        if changed:
            self.client.update_run(info.run_id, run.status, run.name)
        return self.client.get_run(info.run_id) if metrics or params or tags or changed else held

    def _new_epochs(self, run: MlflowRun, start: int) -> list[Any]:
        """Points of epochs that MLflow lacks; start: of the run, in ms.

        The client sends long lists in batches, in order. The objective is the last point of an epoch, so that its last step
        tells which epochs have arrived. Times come from the records: MLflow ignores a point that it already has.
        """
        from mlflow.entities import Metric

        points, seconds = [], 0.0
        for record in run.epochs:
            seconds += record["seconds"]
            if record["epoch"] > self.last_epoch.get(run.key, 0):
                names = [key for key in record if key.startswith(("val/", "train/"))]
                for key in sorted(names, key=OBJECTIVE.__eq__):
                    when = start + int(1000 * seconds)
                    points.append(Metric(_metric_name(key), record[key], when, record["epoch"]))
        return points


def _metric_name(name: str) -> str:
    """Replace what MLflow does not allow in a name, such as a bracket in a class."""
    return re.sub(r"[^\w./: -]", "_", name)


def _client(uri: str) -> Any:
    """MLflow's client: quiet, sending nothing home, and quick to give up, since the next sync tries again."""
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }
    for key, value in settings.items():
        os.environ.setdefault(key, value)
    # MLflow's own use of SQLAlchemy; not undone after the import, since undoing would race with other threads.
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)
    from mlflow import MlflowClient

    return MlflowClient(uri)


def _problem(uri: str, error: Exception) -> str:
    """`MLflow at URI does not work (…)`, without passwords."""
    text = " ".join(str(error).split())
    cause = re.search(r"\[Errno -?\d+\] [\w ]+", text)
    problem = f"does not work ({cause[0] if cause else _without_password(text)[:200] or type(error).__name__})"
    if "Invalid Host header" in text:
        host = re.sub(r"^\w+://|/.*$", "", _without_password(uri))  # with its port, as MLflow compares it
        problem = f"refuses the host name (403): start it with `--allowed-hosts {host}`, or name it by its IP address"
    return f"MLflow at {_without_password(uri)} {problem}"


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


def _remedy(study: Study, uri: str) -> str:
    results = study.folder.parent
    options = [] if results == Path("results") else ["--results", str(results)]
    options += [] if uri == default_uri(results) else ["--tracking-uri", _without_password(uri)]
    return f"nothing is lost: `{shlex.join(['lfvd-tune', 'sync', study.name, *options])}` sends it later"
