"""The search from Python: `run_search` runs one, `open_study` reads one; both return its results as data frames."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import optuna
import pandas as pd
from rich.console import Console

from lfvd.config import Config
from tune import session
from tune.analysis.conclusions import draw_conclusions
from tune.analysis.summary import summarize
from tune.plan import SearchPlan
from tune.search.confirmation import ranking
from tune.search.trials import WORDS
from tune.study import study_folder
from tune.study.study import Study
from tune.tracking.mlflow_writer import default_uri


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study found, as far as it has come."""

    folder: Path
    best: Config | None
    """The winner's config with its own length and device; None until the confirmation has ended."""
    ranking: pd.DataFrame
    """Confirmed configs, the best first: `trial`, `mean` and `std` of validation W-F1 in 0..1 over `runs` folds or seeds, values."""
    trials: pd.DataFrame
    """All trials of the search: `trial`, `state`, `value` (best validation W-F1 in 0..1), `epochs`, searched values."""
    statement: list[str]
    """Winner against baseline in sentences."""


def run_search(
    plan: str | Path | SearchPlan,
    data: str | Path,
    name: str | None = None,
    results: str | Path = "results",
    *,
    address: str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    console: Console | None = None,
    verbose: bool = False,
) -> StudyResult:
    """Search, confirm and write `results/name/best.yaml`, as `lfvd-tune search`; continues a study of that name.

    plan: a plan file, or the name of a shipped plan. data: a corpus file. name: of the study; the plan's unless given.
    console: shows progress; unless given, the logger `tune` gets it in lines. Ctrl-C, in the main thread, or `lfvd-tune stop`
    ends the search early; then `best` is None, and the same call goes on.

    Raises InputError for bad input, NothingUsable (tune.session) where no trial came to a result.
    """
    read = plan if isinstance(plan, SearchPlan) else SearchPlan.from_yaml(str(plan))
    folder = study_folder(Path(results), name or Path(read.base if isinstance(plan, SearchPlan) else plan).stem)
    console = console or Console(
        file=_LogLines(), width=1000, force_terminal=False, force_jupyter=False, highlight=False, color_system=None
    )
    options = session.SessionOptions(
        address=address, tracking_uri=tracking_uri or default_uri(folder.parent), verbose=verbose
    )
    with session.started_study(folder, read, data, storage, console) as (study, corpus):
        session.run_session(study, corpus, console, options)
        return _result(study)


def open_study(folder: str | Path) -> StudyResult:
    """The results of a study's folder, `results/name`; only reads it. Raises StudyError where there is no such study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return _result(Study.open(Path(folder)))


def _result(study: Study) -> StudyResult:
    summary, best = summarize(study), study.folder / "best.yaml"
    trials = [
        {
            "trial": trial.number,
            "state": WORDS[trial.state],
            "value": max(trial.intermediate_values.values(), default=None),
            "epochs": len(trial.intermediate_values),
            **trial.params,
        }
        for trial in study.trials
    ]
    finalists = [
        {
            "trial": each.trial,
            "mean": each.wf1,
            "std": each.std["val/wf1"],
            "runs": len(each.units),
            **study.params_of(each.trial),
        }
        for each in ranking(study)
    ]
    values = list(study.plan.space)
    return StudyResult(
        folder=study.folder,
        best=Config.from_yaml(best) if summary.order and best.is_file() else None,
        ranking=pd.DataFrame(finalists, columns=["trial", "mean", "std", "runs", *values]),
        trials=pd.DataFrame(trials, columns=["trial", "state", "value", "epochs", *values]),
        statement=list(draw_conclusions(study, summary).sentences),
    )


class _LogLines(io.StringIO):
    """A text stream that sends each line to the logger `tune`."""

    rest = ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in filter(str.strip, lines):
            level = logging.WARNING if line.startswith("warning: ") else logging.INFO
            logging.getLogger("tune").log(level, line.removeprefix("warning: "))
        return len(text)
