"""A study on disk, `results/<name>/`: its plan, its trials, their records. One session writes; readers change nothing.

`plan.yaml` what was asked (tune.study.plan_file); `journal.log` an Optuna study: parameters, each epoch's objective, states,
reasons; `epochs.jsonl` one line an epoch of every stage; `confirm.jsonl` one line a confirmed run; `faults.jsonl` one line a
fault and what was done about it; `test_looks.jsonl` one line an evaluation of the test split (tune.study.test_log);
`checksums.json` what they held when they were last forced to disk (tune.study.checksums).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState

from lfvd.config import Config
from lfvd.files import DISK_FULL
from lfvd.training.metrics import canonical_metrics
from tune.plan import SearchPlan
from tune.study import jsonl
from tune.study.checksums import damaged
from tune.study.consistency import Consistency
from tune.study.lock import hold_lock
from tune.study.paths import StudyPaths
from tune.study.plan_file import DataSource, StudyError, differences, freeze, load_plan
from tune.study.records import RecordFiles, end_session
from tune.study.test_log import TestLog

OBJECTIVE = "val/wf1_best"
"""What ASHA and the sampler see: the best validation W-F1 so far, never the last one, never anything of test."""

BASELINE = 0
"""The baseline's trial number: the base's own values are the first trial of every search."""


@contextmanager
def study_lock(folder: Path) -> Iterator[list[str]]:
    """Hold a study as its only writer, torn last lines of its files cut off; yields warnings about what was found.

    Raises LockedError where another session is at work, DamagedError where a file is not what was written.
    """
    with hold_lock(folder) as last:
        warnings = [f"the last driver ({last}) ended without a word: going on from what it wrote"] if last else []
        records = RecordFiles(folder)
        warnings += records.mend()
        records.append_unchecked("faults.jsonl", [jsonl.dump(_fault(warning, "going on")) for warning in warnings])
        try:
            yield warnings
        finally:
            end_session(folder)


def _fault(reason: str, then: str, **where: Any) -> dict[str, Any]:
    return {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **where, "reason": reason, "then": then}


class _Journal(BaseJournalBackend):
    """Optuna's file without its lock: the study's one writer holds `study_lock`.

    States are forced to disk, and with them all lines before them; a new trial's values by `Study.fsync`. An epoch's value
    need not be, since the trial's checkpoint would bring it back. Optuna's study itself is written with the first trial, so
    that opening an empty journal writes nothing.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.tail = study, study.tail("journal.log")
        self.unwritten: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self.unwritten[log_number_from:]
        for log in self.tail.new():
            if self.tail.lines > log_number_from:
                yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if logs[0]["op_code"] == JournalOperation.CREATE_STUDY:
            self.unwritten = logs
            return
        lines = [json.dumps(log, separators=(",", ":")) for log in [*self.unwritten, *logs]]
        states = any(log["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES for log in logs)
        self.study.write("journal.log", lines, force=states)
        self.unwritten = []


class Study:
    """An open study. Written only within `study_lock`."""

    stage = "confirm"
    """Under which its runs over the plan's seeds stand in epochs.jsonl and faults.jsonl."""
    kind = "finalist"
    """What such a run belongs to."""
    work = "confirmation"
    """What all of them are."""
    artifacts: tuple[str, ...] = ("best.yaml", "report.html", "*.png")
    """Patterns of files that hold its answer."""

    def __init__(self, folder: Path, plan: SearchPlan, data: DataSource, info: Mapping[str, Any]) -> None:
        self.folder, self.plan, self.data, self.info = folder, plan, data, info
        self.paths = StudyPaths(folder, info.get("storage"))
        self.test_log = TestLog(folder / "test_looks.jsonl", self._append)
        self.wait_for_disk_space: Callable[[OSError], bool] = lambda error: False
        """Called when the disk is full: True, after a while, to try again; False to raise."""
        self.records = RecordFiles(folder)
        self.records.check_ends()
        self.optuna = self._load_journal()
        Consistency(
            records=self.records,
            trials=self.trials,
            numbers=self.numbers,
            space=plan.space,
            stage=self.stage,
            params_hash=self.params_hash,
        ).check()

    def _load_journal(self) -> optuna.Study:
        """One study a journal, under the name it began with: the folder may have been renamed."""
        path = self.folder / "journal.log"
        try:
            journal = JournalStorage(_Journal(self))
            if names := optuna.get_all_study_names(journal):
                return optuna.load_study(storage=journal, study_name=names[0])
        except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
            raise damaged(path, f"a line of it is damaged or missing ({type(error).__name__}: {error})") from None
        if self.records.contents[path.name].lines:
            raise damaged(path, "its first line is missing")
        return optuna.create_study(storage=journal, study_name=self.folder.name, direction="maximize")

    @classmethod
    def start(cls, folder: Path, plan: SearchPlan, data: DataSource, info: Mapping[str, Any]) -> Self:
        """Begin a study, or continue the one that is there. Raises StudyError where that one differs, and says in what."""
        if (folder / "plan.yaml").is_file():
            study = cls.open(folder)
            differing = differences(study.plan, plan)
            if study.data.fingerprint != data.fingerprint:
                differing.append(f"the data ({study.data.fingerprint[:12]} there, {data.fingerprint[:12]} here)")
            if differing and (study.began or (folder / "epochs.jsonl").is_file()):  # the baseline may come first
                raise StudyError(
                    f"{folder}: holds a study that differs from what is asked in {', '.join(differing)}: choose another "
                    "--name, or go on with what it began with"
                )
            if plan.trials < (held := len(study.trials)):
                raise StudyError(
                    f"{folder}: holds {held} trials, more than the {plan.trials} asked for: a study keeps its trials: ask for "
                    f"{held} or more"
                )
            info = {**study.info, **{k: v for k, v in info.items() if k in ("storage", "folds")}}
            study.plan, study.data, study.info = plan, data, info
            study.paths = StudyPaths(folder, info.get("storage"))
        elif folder.exists() and {path.name for path in folder.iterdir()} - {"driver.lock", "faults.jsonl"}:
            raise StudyError(f"{folder}: is not empty and holds no plan.yaml: choose another --name")
        else:
            study = cls(folder, plan, data, info)
        study.retry_on_full_disk(lambda: study.records.write_plan(freeze(plan, data, info)))
        return study

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what is there. Raises StudyError where nothing is, DamagedError where a file is damaged."""
        return cls(folder, *load_plan(folder))

    @property
    def name(self) -> str:
        """The study's name, which is its folder's."""
        return self.folder.name

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials by number, those waiting in Optuna's queue left out."""
        return [t for t in self.optuna.get_trials(deepcopy=False) if t.state != TrialState.WAITING]

    @property
    def began(self) -> datetime | None:
        """When its first trial began."""
        return self.trials[0].datetime_start if self.trials else None

    def name_of(self, trial: int) -> str:
        """A trial as people call it."""
        return f"trial {trial} (baseline)" if trial == BASELINE else f"trial {trial}"

    def params_of(self, trial: int) -> dict[str, Any]:
        """The searched values of a trial; the baseline's are known before it has begun."""
        return self.plan.baseline if trial == BASELINE else dict(self.trials[trial].params)

    @property
    def numbers(self) -> range:
        """Numbers of its trials; the baseline's is known before it has begun."""
        return range(max(len(self.trials), BASELINE + 1))

    def params_hash(self, trial: int) -> str:
        """Short hash of a trial's searched values: a line of confirm.jsonl names what it belongs to."""
        return hashlib.sha256(json.dumps(self.params_of(trial), sort_keys=True).encode()).hexdigest()[:12]

    def config_of(self, trial: int) -> Config:
        """The Config of a trial; the baseline's with the length of its confirmation."""
        longer = {"run.epochs": self.plan.baseline_epochs} if trial == BASELINE else {}
        return self.plan.config_of({**self.params_of(trial), **longer})

    @property
    def folds(self) -> int:
        """Folds over which finalists are compared; 0: they are compared over the plan's seeds."""
        asked = self.plan.confirm.folds
        return int(self.info["folds"]) if asked == "session" else int(asked)

    def write(self, name: str, lines: list[str], *, force: bool = True) -> None:
        """Add lines to one of RECORDS; force: to the disk, not only to memory that a power cut empties."""
        self.retry_on_full_disk(lambda: self.records.write(name, lines, force=force))
        if force and lines:
            self.retry_on_full_disk(self.records.save)

    def fsync(self, name: str = "epochs.jsonl") -> None:
        """Force one of RECORDS to disk: epochs before a trial's end is told, which must not outlive them."""
        self.write(name, [])

    def retry_on_full_disk(self, action: Callable[[], None]) -> None:
        """Do what writes to disk; while the disk is full, repeat it as long as `wait_for_disk_space` returns True."""
        full: OSError | None = None
        while True:
            try:
                action()
                break
            except OSError as error:
                if error.errno not in DISK_FULL or not self.wait_for_disk_space(error):
                    raise
                full = error
        if full:
            self.log_fault(f"{full.filename or self.folder}: {full.strerror}", "waited for room")

    def _append(self, name: str, record: Mapping[str, Any], *, force: bool = True) -> None:
        self.write(name, [jsonl.dump(record)], force=force)

    def log_epoch(self, stage: str, trial: int, seed: int, record: Mapping[str, Any]) -> None:
        """Add an epoch of stage `search` or `Study.stage`; `fsync` forces it to disk, until then its checkpoint holds it."""
        self._append("epochs.jsonl", {"stage": stage, "trial": trial, "seed": seed, **record}, force=False)

    def log_confirmed(self, run: Mapping[str, Any], stage: str | None = None) -> None:
        """Add a finished run of a stage: trial, seed, params_hash, best_epoch, epochs, seconds, `val/…` of the best epoch."""
        self._append("confirm.jsonl", run if stage in (None, self.stage) else {"stage": stage, **run})

    def log_fault(self, reason: str, then: str, **where: Any) -> None:
        """Add what went wrong, what was done about it, and where: `stage`, `trial`, `seed`."""
        self._append("faults.jsonl", _fault(reason, then, **where))

    def tail(self, name: str) -> jsonl.Tail:
        """Records of one of RECORDS from its first line on, to be read bit by bit; metrics by the names of today."""
        return jsonl.Tail(self.folder / name, convert=canonical_metrics if name == "epochs.jsonl" else None)

    def epochs(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Epochs in the order of their arrival, of one stage or of all."""
        return [r for r in self.tail("epochs.jsonl").new() if stage in (None, r["stage"])]

    def confirmed(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Finished runs of a stage; unless it is named, those over the plan's seeds."""
        runs = jsonl.read(self.folder / "confirm.jsonl")
        return [run for run in runs if run.get("stage", self.stage) == (stage or self.stage)]

    def faults(self) -> list[dict[str, Any]]:
        """Faults: time, reason, then, and for a run stage, trial and seed."""
        return jsonl.read(self.folder / "faults.jsonl")

    def test_scores(self) -> dict[int, list[dict[str, float]]]:
        """Test scores of each evaluated trial over the plan's seeds, in their order: `test/…` metrics in 0..1."""
        return self.test_log.scores(self.plan.confirm.seeds)
