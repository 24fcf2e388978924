"""The study's truth on disk, `results/<name>/`; only the driver writes, everything else can be rebuilt from it.

`plan.yaml` what was asked (plan, base config, data, versions); `journal.log` an Optuna study: parameters, each epoch's
objective, states, reasons; `epochs.jsonl` one line an epoch of every stage; `confirm.jsonl` one line a confirmed run;
`faults.jsonl` one line for whatever went wrong, and what was done about it; `test_looks.jsonl` one line a look at the test
split; `weights/` the best epoch of confirmed runs; `checkpoints/` what unfinished runs continue from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState

from lfvd.config import Config
from lfvd.files import DISK_FULL, InputError, read_yaml, write_yaml
from tune.plan import SearchPlan
from tune.study import checkpoints, jsonl
from tune.study.lock import driving

if TYPE_CHECKING:  # torch, whose import would make `status` slow
    from lfvd.data.corpus import Corpus

OBJECTIVE = "val/wf1_best"
"""What ASHA and the sampler see: the best validation W-F1 so far, never the last one, never anything of test."""

BASELINE = 0
"""The baseline's trial number: the base's own values are the first trial of every search."""

MAY_DIFFER = ("trials", "budget", "resources.max_concurrent", "resources.epoch_timeout")
"""Parts of a plan that a study may go on with after a change: how much, not what."""


class StudyError(InputError):
    """A study that does not exist, or is not the one asked for."""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Which data a study belongs to."""

    path: str
    name: str
    fingerprint: str
    simulated: tuple[str, ...]

    @property
    def title(self) -> str:
        """`MELD; SIMULATED: audio, visual`."""
        return self.name + (f"; SIMULATED: {', '.join(self.simulated)}" if self.simulated else "")

    @classmethod
    def of(cls, corpus: Corpus, path: str | Path) -> DataSource:
        """A corpus and where it was read from."""
        info = corpus.info
        return cls(
            path=str(Path(path).absolute()), name=info.name, fingerprint=corpus.fingerprint, simulated=info.simulated
        )


JOURNALS = ("journal.log", "epochs.jsonl", "confirm.jsonl", "faults.jsonl", "test_looks.jsonl")
"""Files of lines, to which the driver only adds."""


@contextmanager
def writing(folder: Path) -> Iterator[list[str]]:
    """Hold a study as its one driver, its files mended after a driver or a machine that died; yields what was found.

    Raises LockedError where another driver is at work.
    """
    with driving(folder) as last:
        found = [f"the last driver ({last}) ended without a word: going on from what it wrote"] if last else []
        found += [warning for name in JOURNALS if (warning := jsonl.mend(folder / name))]
        for warning in found:
            jsonl.write(folder / "faults.jsonl", [json.dumps(_fault(warning, "going on"))], force=True)
        yield found


def _fault(reason: str, then: str, **where: Any) -> dict[str, Any]:
    return {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **where, "reason": reason, "then": then}


class _Log(JournalFileBackend):
    """Optuna's file, written by the one driver that holds the study's lock: it needs no lock of its own.

    Forced to disk are states, and with them all lines before them; a new trial's values by `settle`, all at once. An epoch's
    value need not be, since the trial's checkpoint would bring it back.
    """

    def __init__(self, study: Study) -> None:
        super().__init__(str(study.folder / "journal.log"))
        self.study = study

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        states = any(log["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES for log in logs)
        self.study.write("journal.log", lines, force=states)


class Study:
    """An open study: its plan, its data, its trials and their records. Written only within `writing`."""

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
        self.wait: Callable[[OSError], bool] = lambda error: False
        """Asked when the disk is full: True, after a while, to try again; False to raise."""
        self.storage = str(info.get("storage") or (folder / "checkpoints").absolute())
        """Where checkpoints lie; the driver may move it to each node's own disk."""
        try:
            journal = JournalStorage(_Log(self))
        except ValueError as error:
            raise StudyError(
                f"{folder / 'journal.log'}: a line of it is damaged ({error}): `lfvd-tune resume {folder.name}` mends its "
                "end; restore the file from a copy where that does not help"
            ) from None
        # One study a journal, under the name it began with: the folder may have been renamed, and a reader writes nothing.
        if names := optuna.get_all_study_names(journal):
            self.optuna = optuna.load_study(storage=journal, study_name=names[0])
        else:
            self.optuna = optuna.create_study(
                storage=journal, study_name=folder.name, direction="maximize", load_if_exists=True
            )

    @classmethod
    def start(cls, folder: Path, plan: SearchPlan, data: DataSource, info: Mapping[str, Any]) -> Self:
        """Begin a study, or go on with the one that is there. Raises StudyError where that one differs, saying in what."""
        if (folder / "plan.yaml").is_file():
            found = cls.open(folder)
            differing = _differences(found.plan, plan)
            if found.data.fingerprint != data.fingerprint:
                differing.append(f"the data ({found.data.fingerprint[:12]} there, {data.fingerprint[:12]} here)")
            if differing and (found.began or (folder / "epochs.jsonl").is_file()):  # the baseline may come first
                raise StudyError(
                    f"{folder}: holds a study that differs from what is asked in {', '.join(differing)}: choose another "
                    "--name, or go on with what it began with"
                )
            info = {**found.info, **{k: v for k, v in info.items() if k == "storage"}}
        elif folder.exists() and {path.name for path in folder.iterdir()} - {"driver.lock", "faults.jsonl"}:
            raise StudyError(f"{folder}: is not empty and holds no plan.yaml: choose another --name")
        frozen = {
            "plan": plan.frozen(),
            "config": plan.config.to_dict(),
            "data": {**vars(data), "simulated": list(data.simulated)},
            "info": dict(info),
        }
        write_yaml(folder / "plan.yaml", frozen)
        return cls(folder, plan, data, info)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what is there. Raises StudyError where nothing is, or a file is damaged."""
        return cls(folder, *asked(folder))

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

    def write(self, name: str, added: list[str], *, force: bool = True) -> None:
        """Add lines to one of JOURNALS; force: not only to the system's memory, which a power cut empties, but to disk."""
        self.patiently(lambda: jsonl.write(self.folder / name, added, force=force))

    def patiently(self, action: Callable[[], None]) -> None:
        """Do what writes to disk; while that is full, again and again as long as `wait` says so."""
        full: OSError | None = None
        while True:
            try:
                action()
                break
            except OSError as error:
                if error.errno not in DISK_FULL or not self.wait(error):
                    raise
                full = error
        if full:
            self.append_fault(f"{full.filename or self.folder}: {full.strerror}", "waited for room")

    def _append(self, name: str, record: Mapping[str, Any], *, force: bool = True) -> None:
        self.write(name, [json.dumps(record, ensure_ascii=False)], force=force)

    def append_epoch(self, stage: str, trial: int, seed: int, record: Mapping[str, Any]) -> None:
        """Add an epoch's record of stage `search` or `Study.stage`; forced to disk by `settle`, since a checkpoint holds it."""
        self._append("epochs.jsonl", {"stage": stage, "trial": trial, "seed": seed, **record}, force=False)

    def settle(self, name: str = "epochs.jsonl") -> None:
        """Force what one of JOURNALS holds to disk: epochs before a trial's end is told, which must not outlive them."""
        self.write(name, [])

    def epochs(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Records of all epochs in the order of their arrival, of one stage or of all."""
        return [r for r in self.tail("epochs.jsonl").new() if stage in (None, r["stage"])]

    def tail(self, name: str) -> jsonl.Tail:
        """One of JOURNALS from its first line on, to be read bit by bit."""
        return jsonl.Tail(self.folder / name)

    def append_confirmed(self, run: Mapping[str, Any]) -> None:
        """Add a finished confirmation run: trial, seed, best_epoch, epochs, seconds, and `val/…` of the best epoch."""
        self._append("confirm.jsonl", run)

    def confirmed(self) -> list[dict[str, Any]]:
        """Finished confirmation runs."""
        return jsonl.read(self.folder / "confirm.jsonl")

    def append_fault(self, reason: str, then: str, **where: Any) -> None:
        """Enter what went wrong, what was done about it, and where: `stage`, `trial`, `seed`."""
        self._append("faults.jsonl", _fault(reason, then, **where))

    def faults(self) -> list[dict[str, Any]]:
        """What went wrong: time, reason, then, and for a run stage, trial and seed."""
        return jsonl.read(self.folder / "faults.jsonl")

    def append_look(self, look: Mapping[str, Any]) -> None:
        """Enter in the ledger, before it happens, a look at the test split: time, host, command, trials, seeds."""
        self._append("test_looks.jsonl", look)

    def append_test_scores(self, scores: Mapping[int, list[dict[str, float]]]) -> None:
        """Enter what the last look saw: trial → `test/…` metrics in the order of its seeds."""
        self._append("test_looks.jsonl", {"scores": scores})

    def looks(self) -> list[dict[str, Any]]:
        """The ledger of looks at the test split; `scores` is empty of one that was cut short."""
        found: list[dict[str, Any]] = []
        for line in jsonl.read(self.folder / "test_looks.jsonl"):
            if "trials" in line:
                found.append({"scores": {}, **line})
            else:
                found[-1]["scores"] = line["scores"]
        return found

    def test_scores(self) -> dict[int, list[dict[str, float]]]:
        """The ledger's scores of each trial over the plan's seeds, in their order: `test/…` metrics in 0..1."""
        seeds = list(self.plan.confirm.seeds)
        return {int(n): rows for look in self.looks() if look["seeds"] == seeds for n, rows in look["scores"].items()}

    def checkpoint(self, job: str) -> str:
        """Where a job keeps what it continues from (tune.study.checkpoints)."""
        return checkpoints.place(self.storage, f"{job}.pt")

    def weights(self, trial: int, seed: int) -> Path:
        """Where the best epoch's weights of a confirmed run lie."""
        return self.folder / "weights" / f"trial{trial}-seed{seed}.safetensors"

    def name_of(self, trial: int) -> str:
        """What people call a trial."""
        return f"trial {trial} (baseline)" if trial == BASELINE else f"trial {trial}"

    def params_of(self, trial: int) -> dict[str, Any]:
        """The searched values of a trial by its number; the baseline's are known before it has begun."""
        return self.plan.baseline if trial == BASELINE else dict(self.trials[trial].params)

    def config_of(self, trial: int) -> Config:
        """The Config of a trial by its number."""
        return self.plan.config_of(self.params_of(trial))

    def predictions(self, trial: int, split: str) -> Path:
        """Where the predictions of a confirmed config for a split lie (tune.study.predictions)."""
        return self.folder / "predictions" / f"trial{trial}-{split}.npz"


def asked(folder: Path, read: Callable[..., SearchPlan] | None = None) -> tuple[SearchPlan, DataSource, dict[str, Any]]:
    """What a study's plan.yaml says: plan, data, and with what it began; `read` in place of SearchPlan.from_dict.

    Raises StudyError where there is none, or one of another kind.
    """
    if not (folder / "plan.yaml").is_file():
        near = sorted(p.parent.name for p in folder.parent.glob("*/plan.yaml"))
        there = f"there are {', '.join(near)}" if near else "there is none yet: start one with `lfvd-tune search`"
        raise StudyError(f"{folder}: there is no such study: {there}")
    frozen = read_yaml(folder / "plan.yaml")
    if read is None and holds_rows(frozen):
        raise StudyError(f"{folder}: holds rows of the paper's tables, no search: go on with `lfvd-tune reproduce`")
    read = read or SearchPlan.from_dict
    try:
        config = Config.from_dict(frozen["config"], source="config")
        data = DataSource(**{**frozen["data"], "simulated": tuple(frozen["data"]["simulated"])})
        plan = read(frozen["plan"], source="plan", folder=folder, config=config)
    except StudyError as error:
        raise StudyError(f"{folder}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(f"{folder / 'plan.yaml'}: is damaged ({error}): restore it, or start another study") from None
    return plan, data, frozen.get("info") or {}


def holds_rows(frozen: Mapping[str, Any]) -> bool:
    """Whether the content of a plan.yaml is of rows of tables (tune.paper.grid), not of a search."""
    plan = frozen.get("plan")
    return isinstance(plan, Mapping) and "rows" in plan


def _differences(old: SearchPlan, new: SearchPlan) -> list[str]:
    """Keys in which two plans, or their base configs, differ beyond MAY_DIFFER."""
    before, after = _flat(old), _flat(new)
    keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    return [f"`{k}` ({before.get(k)} there, {after.get(k)} here)" for k in keys if not k.startswith(MAY_DIFFER)]


def _flat(plan: SearchPlan) -> dict[str, Any]:
    sections = {
        f"{name}.{key}": value
        for name in ("sampler", "scheduler", "resources", "budget", "confirm")
        for key, value in vars(getattr(plan, name)).items()
    }
    return {**plan.config.flat(), **{f"space.{k}": v.distribution for k, v in plan.space.items()}, **sections}
