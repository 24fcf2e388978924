"""Whether a study's files agree with one another: what the checksums cannot tell of older studies and of a crash's last lines."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tune.parameter import Parameter
from tune.study.checksums import DamagedError, damaged
from tune.study.jsonl import Tail
from tune.study.records import RecordFiles

Record = dict[str, Any]
RunKey = tuple[str, int, str]
"""Stage, trial and seed."""


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """What is known of a study beside its lines, which are those that were compared with the checksums."""

    records: RecordFiles
    trials: Sequence[FrozenTrial]
    """Of the journal, read after the lines, of which a session may write more meanwhile."""
    numbers: Collection[int]
    """Of trials, or rows, that may be named."""
    space: Mapping[str, Parameter]
    stage: str
    """Of the runs over the plan's seeds in epochs.jsonl; lines of confirm.jsonl without a stage are of it."""
    params_hash: Callable[[int], str]
    """Trial → hash of its values (Study.params_hash)."""

    def check(self) -> None:
        """Raises DamagedError where the files disagree.

        The confirmation is always compared with the journal; the rest only where the checksums do not vouch for every line.
        """
        runs = self._confirmed()
        if self.records.vouched:
            return
        epochs = self._epochs()
        for name in ("faults.jsonl", "test_looks.jsonl"):
            for line, record in self._lines(name):
                for trial in [record["trial"]] if "trial" in record else record.get("trials", []):
                    self._check_trial(name, line, trial)
        if self.records.recorded is None:
            found = {trial: run for (stage, trial, _), run in epochs.items() if stage == "search"}
            for trial in self.trials:
                self._check_values(trial)
                self._check_search(trial, found.get(trial.number, {}))
            self._check_runs(runs, epochs)
            self._check_evaluations(runs)

    def _lines(self, name: str) -> Iterator[tuple[int, Record]]:
        """Number and record of each line."""
        tail = Tail(self.records.folder / name).new()
        return enumerate(itertools.islice(tail, self.records.contents[name].lines), start=1)

    def _error(self, name: str, what: str, line: int | None = None) -> DamagedError:
        return damaged(self.records.folder / name, what, line=line)

    def _check_trial(self, name: str, line: int, trial: Any) -> None:
        if type(trial) is not int or trial not in self.numbers:
            held = f"{len(self.trials)} trial" + "s" * (len(self.trials) != 1)
            raise self._error("journal.log", f"holds {held}, but line {line} of {name} names trial {trial}")

    def _confirmed(self) -> dict[RunKey, Record]:
        """Each run belongs to a trial of the journal, with the same values, and comes once → the runs."""
        name, runs = "confirm.jsonl", dict[RunKey, Record]()
        for line, run in self._lines(name):
            if not {"trial", "seed"} <= run.keys():
                raise self._error(name, "names no trial and seed", line)
            trial, key = run["trial"], (run.get("stage", self.stage), run["trial"], repr(run["seed"]))
            self._check_trial(name, line, trial)
            if run.get("params_hash", self.params_hash(trial)) != self.params_hash(trial):
                raise self._error(name, f"belongs to other values than trial {trial} has in journal.log", line)
            if key in runs:
                raise self._error(name, f"repeats trial {trial}, seed {run['seed']}", line)
            runs[key] = run
        return runs

    def _epochs(self) -> dict[RunKey, dict[int, Record]]:
        """Each epoch belongs to a trial of the journal, and those of a run come in order → (stage, trial, seed) → epochs."""
        name, runs = "epochs.jsonl", dict[RunKey, dict[int, Record]]()
        for line, record in self._lines(name):
            try:
                key, epoch = (record["stage"], record["trial"], repr(record["seed"])), int(record["epoch"])
                float(record["val/wf1_best"]), float(record["seconds"])
            except (KeyError, TypeError, ValueError):
                raise self._error(name, "lacks a value that each epoch has", line) from None
            self._check_trial(name, line, record["trial"])
            run = runs.setdefault(key, {})
            if epoch <= max(run, default=0):
                raise self._error(name, f"repeats epoch {epoch} of trial {record['trial']}", line)
            run[epoch] = record
        return runs

    def _check_values(self, trial: FrozenTrial) -> None:
        """A trial has values of the plan's space."""
        space, name = self.space, f"trial {trial.number}"
        for key, value in trial.params.items():
            try:
                held = space[key].distribution._contains(space[key].distribution.to_internal_repr(value))
            except (KeyError, TypeError, ValueError):
                held = False
            if not held:
                raise self._error("journal.log", f"holds a value of {name} that the plan does not have (`{key}`)")
        if trial.state.is_finished() and trial.params.keys() != space.keys():
            raise self._error("journal.log", f"lacks values of {name}")

    def _check_search(self, trial: FrozenTrial, epochs: dict[int, Record]) -> None:
        """The journal's value at each epoch of a trial that ended is that of epochs.jsonl."""
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            return
        for epoch, value in trial.intermediate_values.items():
            if epoch not in epochs or epochs[epoch]["val/wf1_best"] != value:
                what = f"does not hold epoch {epoch} of trial {trial.number} as journal.log has it"
                raise self._error("epochs.jsonl", what)

    def _check_runs(self, runs: dict[RunKey, Record], epochs: dict[RunKey, dict[int, Record]]) -> None:
        """A confirmed run has all its epochs, and the metrics of its best one."""
        for key, run in runs.items():
            found, (_, trial, seed) = epochs.get(key, {}), key
            best = found.get(run.get("best_epoch", 0), {})
            metrics = [{k: v for k, v in each.items() if k.startswith("val/")} for each in (run, best)]
            if metrics[0] != metrics[1] or len(found) != run.get("epochs"):
                what = f"holds trial {trial}, seed {seed} with other epochs or metrics than epochs.jsonl"
                raise self._error("confirm.jsonl", what)

    def _check_evaluations(self, runs: dict[RunKey, Record]) -> None:
        """What was evaluated on test was confirmed before."""
        for line, look in self._lines("test_looks.jsonl"):
            if not ({"trials", "seeds"} <= look.keys() or ("scores" in look and line > 1)):
                raise self._error("test_looks.jsonl", "is no evaluation of test, and no scores of one", line)
            for trial, seed in itertools.product(look.get("trials", []), look.get("seeds", [])):
                if (self.stage, trial, repr(seed)) not in runs:
                    what = f"lacks trial {trial}, seed {seed}, which line {line} of test_looks.jsonl names"
                    raise self._error("confirm.jsonl", what)
