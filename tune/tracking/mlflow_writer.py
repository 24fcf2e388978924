"""The journal → MLflow, from the driver alone: a projection that can be thrown away and rebuilt.

sync(study, default_uri(Path("results")))                     brings MLflow to what the study's folder says now
with Tracker(study, uri) as tracker: …; tracker.problem       the same every ten seconds, in a thread of its own

One experiment a study. Its runs: `trial 7` for each trial of the search; `finalist: trial 7` with the averages over seeds;
below each finalist `trial 7, seed 2` for each seed. The tag `lfvd.key` says which is which, and is looked for before a run
is made: a crash at any point leaves one run for each, and going on needs nothing of MLflow. The study is only read.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import threading
import time
import warnings
from datetime import UTC
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lfvd.files import InputError
from tune.study.study import OBJECTIVE, Study
from tune.tracking.mlflow_runs import Projection, Run, head_note

MOST = 1000
"""Metrics that MLflow takes at once."""


class TrackingError(InputError):
    """MLflow cannot be reached, or refuses: nothing is lost, a later sync sends what is missing."""


def default_uri(results: Path) -> str:
    """The database `mlflow.db` beside the studies; artifacts go to `mlartifacts` there."""
    return f"sqlite:///{results.absolute() / 'mlflow.db'}"


def sync(study: Study, uri: str) -> None:
    """Bring MLflow to what the study says now; what is not finished counts as interrupted. Raises TrackingError."""
    try:
        _Sender(study, uri).update(live=False)
    except Exception as error:
        raise TrackingError(_sentence(study, uri, error)) from error


def describe_server(uri: str) -> str:
    """What answers there, in words. Raises TrackingError for what does not answer, or is of another major version."""
    try:
        _client(uri).search_experiments(max_results=1)
        from mlflow import __version__ as here  # after the client, which keeps the import quiet

        version = _server_version(uri) if uri.startswith(("http:", "https:")) else here
    except Exception as error:
        raise TrackingError(f"MLflow at {_shown(uri)} {_problem(uri, error)}") from error
    if version is None:
        return f"MLflow at {_shown(uri)} answers"
    if version.partition(".")[0] != here.partition(".")[0]:
        raise TrackingError(
            f"MLflow at {_shown(uri)} is of version {version}, which does not go with {here} here: "
            "start it from this environment"
        )
    return f"MLflow {version} at {_shown(uri)}"


def _server_version(uri: str) -> str | None:
    """A server's own version; None where it does not tell, as hosted ones."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    answer = http_request(get_default_host_creds(uri), "/version", "GET")
    text = answer.text.strip()
    return text if answer.ok and re.match(r"\d+\.\d+", text) else None


class Tracker:
    """Syncs every `every` seconds in a thread, and once more at the end, for at most `patience` seconds.

    A server that is down or slow holds up nothing: `problem` says so in one sentence until it works again; after the end,
    it says what is left to do.
    """

    def __init__(self, study: Study, uri: str, *, every: float = 10.0, patience: float = 30.0) -> None:
        self.study, self.uri, self.every, self.patience = study, uri, every, patience
        self.problem: str | None = None
        self._sender: _Sender | None = None
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
        at_once = kind is KeyboardInterrupt  # Ctrl-C for the second time
        self._thread.join(min(3.0, self.patience) if at_once else self.patience)
        if self._thread.is_alive():
            self.problem = f"MLflow at {_shown(self.uri)} is too slow to wait for; {_remedy(self.study, self.uri)}"

    def _work(self) -> None:
        last = False
        while not last:
            last = self._stop.is_set()
            self.problem = self._attempt(live=not last)
            self._stop.wait(self.every)

    def _attempt(self, *, live: bool) -> str | None:
        try:
            self._sender = self._sender or _Sender(self.study, self.uri)
            self._sender.update(live=live)
        except Exception as error:
            self._sender = None  # what arrived is uncertain: the next attempt asks MLflow
            return _sentence(self.study, self.uri, error)
        return None


class _Sender:
    """Sends what MLflow lacks; `held` is what it has of runs that may change. After an error it is to be thrown away."""

    def __init__(self, study: Study, uri: str) -> None:
        self.study, self.uri = study, uri
        self.client = _client(uri)
        self.experiment: str | None = None
        self.summary = ""
        self.held: dict[str, Any] = {}  # key → MLflow's own Run
        self.newest = 0  # start of the run that began last, in ms
        self.epoch: dict[str, int] = {}  # key → last epoch that it has
        self.files: dict[Path, int] = {}

    def update(self, *, live: bool) -> None:
        """Send what is missing."""
        if self.study.began is None:
            return
        if self.experiment is None:
            self.experiment = self._experiment()
            self.projection = Projection(self.study, known=self._whole())
        runs = self.projection.runs(live=live)
        for run in runs:
            if run.key not in self.held:
                self.held[run.key] = self._find(run) or self._create(run)
                self.newest = max(self.newest, self.held[run.key].info.start_time)
            if self.held[run.key].info.lifecycle_stage == "active":  # what a person deleted stays so
                self._send(run, self.held[run.key])
            if run.final:
                del self.held[run.key]
        summary = head_note(self.study, runs)
        if summary != self.summary:
            self.client.set_experiment_tag(self.experiment, "mlflow.note.content", summary)
            self.summary = summary

    def _experiment(self) -> str:
        """The study's experiment; a name that another study took before, or that was deleted, gets the start's time."""
        local = self.study.began
        assert local is not None, "asked of a study that has begun"
        began = local.astimezone(UTC)
        mark = began.isoformat()
        for name in (self.study.name, f"{self.study.name} ({began:%Y-%m-%d %H:%M:%S} UTC)"):
            found = self.client.get_experiment_by_name(name)
            if found is None:
                return self._new_experiment(name, mark)
            if found.tags.get("lfvd.study") == mark and found.lifecycle_stage == "active":
                self.summary = found.tags.get("mlflow.note.content", "")
                return str(found.experiment_id)
        raise TrackingError(f"the experiment `{name}` was deleted there: restore it")

    def _new_experiment(self, name: str, mark: str) -> str:
        local = not self.uri.startswith(("http:", "https:", "databricks"))
        place = (self.study.folder.absolute().parent / "mlartifacts" / self.study.name).as_uri() if local else None
        return str(self.client.create_experiment(name, artifact_location=place, tags={"lfvd.study": mark}))

    def _whole(self) -> set[int]:
        """Trials whose runs MLflow has to their end: the status of an ended run is sent last."""
        trials, page = set(), None
        while page != "":
            found = self.client.search_runs(
                [self.experiment], "tags.stage = 'search'", run_view_type=3, page_token=page
            )
            for run in found:
                self.newest = max(self.newest, run.info.start_time)
                if run.info.status in _ENDED:
                    trials.add(int(run.data.tags["lfvd.key"].removeprefix("trial")))
            page = found.token or ""
        return trials

    def _find(self, run: Run) -> Any | None:
        found = self.client.search_runs([self.experiment], f"tags.`lfvd.key` = '{run.key}'", run_view_type=3)
        if found and run.epochs and found[0].info.lifecycle_stage == "active":
            history = self.client.get_metric_history(found[0].info.run_id, OBJECTIVE)
            self.epoch[run.key] = max((point.step for point in history), default=0)
        return found[0] if found else None

    def _create(self, run: Run) -> Any:
        tags = {"lfvd.key": run.key, **run.tags}
        if run.parent:
            tags["mlflow.parentRunId"] = self.held[run.parent].info.run_id
        start = int(1000 * (run.start.timestamp() if run.start else time.time() - run.seconds))
        if run.start is None:  # MLflow lists the newest first: finalists before trials
            start = max(start, 1 + self.newest)
        return self.client.create_run(self.experiment, start, tags, run.name)

    def _send(self, run: Run, held: Any) -> None:
        """Bring one run up to date; its status last, so that an ended run is a whole one."""
        from mlflow.entities import Metric, Param, RunTag

        run_id, data, now = held.info.run_id, held.data, int(1000 * time.time())
        figures = {_metric(k): v for k, v in run.figures.items() if math.isfinite(v)}
        metrics = [Metric(k, v, now, run.step) for k, v in figures.items() if data.metrics.get(k) != v]
        params = [Param(k, str(v)) for k, v in run.params.items() if k not in data.params]
        tags = [RunTag(k, v) for k, v in run.tags.items() if data.tags.get(k) != v]
        self.client.log_batch(run_id, metrics, params, tags, synchronous=True)  # sends nothing where all are empty
        epochs = self._send_epochs(run, held)
        self._send_files(run_id, run.files)
        renamed, moved = held.info.run_name != run.name, held.info.status != run.status
        if moved and run.status in _ENDED:
            self.client.set_terminated(run_id, run.status, held.info.start_time + int(1000 * run.seconds))
        if renamed or moved:
            self.client.update_run(run_id, run.status, run.name)
        if metrics or params or tags or epochs or renamed or moved:
            self.held[run.key] = self.client.get_run(run_id)

    def _send_epochs(self, run: Run, held: Any) -> bool:
        """Whole epochs only, so that the last step tells what has arrived."""
        from mlflow.entities import Metric

        batches: list[list[Metric]] = [[]]
        seconds = 0.0
        for record in run.epochs:
            # Made of what is written down, not of the clock: MLflow ignores a point that it has already.
            seconds += record["seconds"]
            when, epoch = held.info.start_time + int(1000 * seconds), record["epoch"]
            if epoch > self.epoch.get(run.key, 0):
                scores = {_metric(k): v for k, v in record.items() if k.startswith(("val/", "train/"))}
                if len(batches[-1]) + len(scores) > MOST:
                    batches.append([])
                batches[-1] += [Metric(k, v, when, epoch) for k, v in scores.items()]
        for batch in batches:
            self.client.log_batch(held.info.run_id, metrics=batch, synchronous=True)
        if batches[-1]:
            self.epoch[run.key] = run.epochs[-1]["epoch"]
        return bool(batches[-1])

    def _send_files(self, run_id: str, names: tuple[str, ...]) -> None:
        """Files of the study's folder, again where they changed."""
        for path in sorted(path for name in names for path in self.study.folder.glob(name)):
            changed = path.stat().st_mtime_ns
            if self.files.get(path) != changed:
                self.client.log_artifact(run_id, str(path))
                self.files[path] = changed


_ENDED = ("FINISHED", "FAILED")
"""MLflow's statuses of a run that is over."""


def _metric(name: str) -> str:
    """A metric's name with what MLflow does not allow, such as a bracket in a class, replaced."""
    return re.sub(r"[^\w./: -]", "_", name)


def _client(uri: str) -> Any:
    """MLflow's client: quiet, sending nothing home, and quick to give up, since the next sync tries again."""
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "ERROR"}
    quiet["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    for key, value in {**quiet, **quick}.items():
        os.environ.setdefault(key, value)
    # MLflow's own use of SQLAlchemy; not undone after the import, since undoing would race with other threads.
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)
    from mlflow import MlflowClient

    return MlflowClient(uri)


def _sentence(study: Study, uri: str, error: Exception) -> str:
    """What went wrong and what to do, without passwords."""
    return f"MLflow at {_shown(uri)} {_problem(uri, error)}; {_remedy(study, uri)}"


def _problem(uri: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "Invalid Host header" in text:
        host = re.sub(r"^\w+://|[:/].*$", "", re.sub(r"//[^/@]*@", "//", uri))
        return f"refuses the host name (403): start it with `--allowed-hosts {host}`, or name it by its IP address"
    cause = re.search(r"\[Errno -?\d+\] [\w ]+", text)
    return f"does not work ({cause[0] if cause else _shown(text)[:200] or type(error).__name__})"


def _shown(text: str) -> str:
    """Without user and password of an address."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _remedy(study: Study, uri: str) -> str:
    results = study.folder.parent
    options = [] if results == Path("results") else ["--results", str(results)]
    options += [] if uri == default_uri(results) else ["--tracking-uri", _shown(uri)]
    return f"nothing is lost: `{shlex.join(['lfvd-tune', 'sync', study.name, *options])}` sends it later"
