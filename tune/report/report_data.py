"""Data of a report, gathered once from a study's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lfvd.files import InputError
from tune.analysis.conclusions import Conclusions, draw_conclusions
from tune.analysis.summary import StudySummary, summarize
from tune.published import dataset_of, published
from tune.report.compute_time import ComputeTime, compute_time
from tune.search.confirmation import Confirmed
from tune.study.predictions import Predictions
from tune.study.study import BASELINE, Study


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """A study, its results, and the scores and predictions of the roles `winner` and `baseline` on each split."""

    study: Study
    summary: StudySummary
    conclusions: Conclusions
    compute: ComputeTime
    roles: Mapping[str, Confirmed]
    """Without the baseline where it wins or was not confirmed; empty before the confirmation."""
    scores: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]
    """`validation` and `test` → role → metrics of each seed in 0..1: `wf1`, `acc`, `f1/<class>`; test: once evaluated."""
    predictions: Mapping[str, Mapping[str, Predictions]]
    """Split → role → predictions, where their file is there."""
    paper: Mapping[str, Mapping[str, float | None]]
    """System → class, `acc` or `wf1` → percent as the paper has them for these data; empty for other data."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the corpus's order; empty before the confirmation."""
        rows = self.scores["validation"].get("winner")
        return [key.removeprefix("f1/") for key in rows[0] if key.startswith("f1/")] if rows else []

    @property
    def split(self) -> str:
        """The split to judge by: `test` once it was evaluated, else `validation`."""
        return "test" if self.scores["test"] else "validation"

    @property
    def seeds(self) -> str:
        """`5 seeds`."""
        count = len(self.study.plan.confirm.seeds)
        return f"{count} seed{'s' * (count > 1)}"

    @property
    def winner_predictions(self) -> dict[str, Predictions]:
        """Split → the winner's predictions, where they are there."""
        return {split: roles["winner"] for split, roles in self.predictions.items() if "winner" in roles}


def gather(study: Study) -> ReportData:
    """Read a study's folder. Raises InputError for a damaged file."""
    summary = summarize(study)
    trials = dict.fromkeys([each.trial for each in summary.order[:1]] + [BASELINE])
    confirmed = [summary.averages[n] for n in trials if n in summary.averages]
    roles = dict(zip(("winner", "baseline"), confirmed, strict=False))
    runs = {(run["trial"], run["seed"]): run for run in study.confirmed()}
    test = study.test_scores()
    # A file of test predictions that the log of test evaluations does not name is not shown.
    evaluated = {role: each for role, each in roles.items() if each.trial in test}
    return ReportData(
        study=study,
        summary=summary,
        conclusions=draw_conclusions(study, summary),
        compute=compute_time(study),
        roles=roles,
        scores={
            "validation": {k: [_metrics(runs[v.trial, seed]) for seed in v.units] for k, v in roles.items()},
            "test": {role: [_metrics(row) for row in test[each.trial]] for role, each in evaluated.items()},
        },
        predictions={
            "validation": _predictions(study, roles, "valid"),
            "test": _predictions(study, evaluated, "test"),
        },
        paper=_paper(study.data.name),
    )


def simulated_notice(study: Study) -> list[str]:
    """A sentence that names the simulated modalities; none where all are recorded."""
    names = list(study.data.simulated)
    if not names:
        return []
    which = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return [
        f"Simulated: {which} {'are' if len(names) > 1 else 'is'} drawn from the true labels, not recorded. The scores show that "
        "the software works; they say nothing about real data."
    ]


def _metrics(record: Mapping[str, float]) -> dict[str, float]:
    """`wf1`, `acc` and `f1/<class>` of a record, without the split in their names."""
    named = {key.partition("/")[2]: value for key, value in record.items()}
    return {key: value for key, value in named.items() if key in ("wf1", "acc") or key.startswith("f1/")}


def _predictions(study: Study, roles: Mapping[str, Confirmed], split: str) -> dict[str, Predictions]:
    paths = {role: study.paths.predictions(each.trial, split) for role, each in roles.items()}
    return {role: Predictions.load(path) for role, path in paths.items() if path.is_file()}


def _paper(data: str) -> dict[str, dict[str, float | None]]:
    try:
        dataset = published()[dataset_of(data)]
    except InputError:
        return {}
    table = dataset.get("table2") or dataset["table3"]
    return {
        system: {**dict(zip(dataset["classes"], row["f1"], strict=True)), "acc": row["acc"], "wf1": row["wf1"]}
        for system, row in table.items()
    }
