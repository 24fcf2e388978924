"""The study's truth on disk, `results/<name>/`; only the driver writes, everything else can be rebuilt from it.

`plan.yaml` what was asked (plan, base config, data, versions); `journal.log` an Optuna study: parameters, each epoch's
objective, states, reasons; `epochs.jsonl` one line an epoch of every stage; `confirm.jsonl` one line a confirmed run;
`test_looks.jsonl` one line a look at the test split; `weights/` the best epoch of confirmed runs; `checkpoints/` what
unfinished runs continue from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from lfvd.config import Config
from lfvd.corpus import Corpus
from lfvd.files import InputError, read_yaml, write_yaml
from tune.space import SearchPlan

OBJECTIVE = "val/wf1_best"
"""What ASHA and the sampler see: the best validation W-F1 so far, never the last one, never anything of test."""

MAY_DIFFER = ("trials", "budget", "resources.max_concurrent")
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

    @classmethod
    def of(cls, corpus: Corpus, path: str | Path) -> DataSource:
        """A corpus and where it was read from."""
        info = corpus.info
        return cls(
            path=str(Path(path).absolute()), name=info.name, fingerprint=corpus.fingerprint, simulated=info.simulated
        )


class Study:
    """An open study: its plan, its data, its trials and their records."""

    def __init__(self, folder: Path, plan: SearchPlan, data: DataSource, info: Mapping[str, Any]) -> None:
        self.folder, self.plan, self.data, self.info = folder, plan, data, info
        path = str(folder / "journal.log")
        # The default lock links a file, which some shared file systems lack; an exclusive open works on all.
        backend = JournalFileBackend(path, lock_obj=JournalFileOpenLock(path))
        storage = JournalStorage(backend)
        # One study a journal, under the name it began with: the folder may have been renamed, and a reader writes nothing.
        if names := optuna.get_all_study_names(storage):
            self.optuna = optuna.load_study(storage=storage, study_name=names[0])
        else:
            self.optuna = optuna.create_study(
                storage=storage, study_name=folder.name, direction="maximize", load_if_exists=True
            )

    @classmethod
    def start(cls, folder: Path, plan: SearchPlan, data: DataSource, info: Mapping[str, Any]) -> Study:
        """Begin a study, or go on with the one that is there. Raises StudyError where that one differs, saying in what."""
        if (folder / "plan.yaml").is_file():
            found = cls.open(folder)
            differing = _differences(found.plan, plan)
            if found.data.fingerprint != data.fingerprint:
                differing.append(f"the data ({found.data.fingerprint[:12]} there, {data.fingerprint[:12]} here)")
            if differing and found.optuna.get_trials(deepcopy=False):
                raise StudyError(
                    f"{folder}: holds a study of another plan, which differs in {', '.join(differing)}: "
                    "choose another --name, or go on with the old plan"
                )
            info = found.info
        elif folder.exists() and any(folder.iterdir()):
            raise StudyError(f"{folder}: is not empty and holds no plan.yaml: choose another --name")
        frozen = {
            "plan": plan.source,
            "config": plan.config.to_dict(),
            "data": {**vars(data), "simulated": list(data.simulated)},
            "info": dict(info),
        }
        write_yaml(folder / "plan.yaml", frozen)
        return cls(folder, plan, data, info)

    @classmethod
    def open(cls, folder: Path) -> Study:
        """Open what is there. Raises StudyError where nothing is."""
        if not (folder / "plan.yaml").is_file():
            near = sorted(p.parent.name for p in folder.parent.glob("*/plan.yaml"))
            there = f"there are {', '.join(near)}" if near else "there is none yet: start one with `lfvd-tune search`"
            raise StudyError(f"{folder}: there is no such study: {there}")
        frozen = read_yaml(folder / "plan.yaml")
        try:
            config = Config.from_dict(frozen["config"], source="config")
            data = DataSource(**{**frozen["data"], "simulated": tuple(frozen["data"]["simulated"])})
            plan = SearchPlan.from_dict(frozen["plan"], source="plan", folder=folder, config=config)
        except (KeyError, TypeError, InputError) as error:
            raise StudyError(
                f"{folder / 'plan.yaml'}: is damaged ({error}): restore it, or start another study"
            ) from None
        return cls(folder, plan, data, frozen.get("info", {}))

    def check_data(self, corpus: Corpus) -> None:
        """Raises StudyError where the corpus is not the one that the study belongs to."""
        if corpus.fingerprint != self.data.fingerprint:
            raise StudyError(
                f"{self.folder}: belongs to {self.data.name} {self.data.fingerprint[:12]}, but the data given are "
                f"{corpus.info.name} {corpus.fingerprint[:12]}: give the study's own data"
            )

    @property
    def name(self) -> str:
        """The study's name, which is its folder's."""
        return self.folder.name

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials by number, those waiting in Optuna's queue left out."""
        return [t for t in self.optuna.get_trials(deepcopy=False) if t.state != TrialState.WAITING]

    def append_epoch(self, stage: str, trial: int, seed: int, record: Mapping[str, Any]) -> None:
        """Add an epoch's record of stage `search` or `confirm`."""
        _append(self.folder / "epochs.jsonl", {"stage": stage, "trial": trial, "seed": seed, **record})

    def epochs(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Records of all epochs in the order of their arrival, of one stage or of all."""
        return [r for r in _lines(self.folder / "epochs.jsonl") if stage in (None, r["stage"])]

    def append_confirmed(self, run: Mapping[str, Any]) -> None:
        """Add a finished confirmation run: trial, seed, best_epoch, epochs, seconds, and `val/…` of the best epoch."""
        _append(self.folder / "confirm.jsonl", run)

    def confirmed(self) -> list[dict[str, Any]]:
        """Finished confirmation runs."""
        return _lines(self.folder / "confirm.jsonl")

    def append_look(self, look: Mapping[str, Any]) -> None:
        """Enter a look at the test split in the ledger: time, host, command, and `scores` of each trial and seed."""
        _append(self.folder / "test_looks.jsonl", look)

    def looks(self) -> list[dict[str, Any]]:
        """The ledger of looks at the test split."""
        return _lines(self.folder / "test_looks.jsonl")

    def checkpoint(self, job: str) -> Path:
        """Where a job keeps what it continues from."""
        return self.folder / "checkpoints" / f"{job}.pt"

    def weights(self, trial: int, seed: int) -> Path:
        """Where the best epoch's weights of a confirmed run lie."""
        return self.folder / "weights" / f"trial{trial}-seed{seed}.safetensors"

    def config_of(self, trial: int) -> Config:
        """The Config of a trial by its number."""
        return self.plan.config_of(self.trials[trial].params)


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


def _append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one JSON line and force it to disk: what was told is never lost."""
    line = json.dumps(record, ensure_ascii=False) + "\n"
    with path.open("ab") as file:
        file.truncate(_whole(path))
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    # Only "\n" ends a line (a class name may hold other separators); what follows the last one is still being written.
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def _whole(path: Path) -> int:
    """Size of a file's whole lines: a full disk or a power cut leaves part of one at the end."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
        if not size or file.read(1) == b"\n":
            return size
    return path.read_bytes().rfind(b"\n") + 1
