"""What a report is made of, gathered once from a study's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tune.analysis.conclusions import Conclusions, draw_conclusions
from tune.analysis.summary import StudySummary, summarize
from tune.report.compute_time import Hours, hours_of
from tune.search.confirmation import Confirmed
from tune.study.predictions import Predictions
from tune.study.study import BASELINE, Study


@dataclass(frozen=True, kw_only=True)
class Material:
    """A study, its answer, and of winner and baseline what is known of each split; roles are `winner` and `baseline`."""

    study: Study
    answer: StudySummary
    statement: Conclusions
    hours: Hours
    roles: Mapping[str, Confirmed]
    """Without the baseline where it wins or was not confirmed; empty before the confirmation."""
    scores: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]
    """`valid` and, once opened, `test` → role → the metrics of each seed in 0..1: `wf1`, `acc`, `f1/<class>`."""
    predictions: Mapping[str, Mapping[str, Predictions]]
    """Split → role → what it predicts, as far as files are there."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the corpus's order; empty before the first epoch."""
        for rows in self.scores["valid"].values():
            return [key.removeprefix("f1/") for key in rows[0] if key.startswith("f1/")]
        return []

    @property
    def split(self) -> str:
        """The one to judge by: `test` once it is opened, else `valid`."""
        return "test" if self.scores["test"] else "valid"


def gather(study: Study) -> Material:
    """Read a study's folder. Raises InputError for a file that is damaged."""
    answer = summarize(study)
    roles = _roles(answer)
    seen = study.test_scores()
    tests = {name: seen[each.trial] for name, each in roles.items() if each.trial in seen}
    return Material(
        study=study,
        answer=answer,
        statement=draw_conclusions(study, answer),
        hours=hours_of(study),
        roles=roles,
        scores={"valid": _validation(study, roles), "test": {k: [_bare(row) for row in v] for k, v in tests.items()}},
        # A file of test that the ledger does not name has been seen by nobody, and stays so.
        predictions={
            "valid": _predictions(study, roles, "valid"),
            "test": _predictions(study, {name: roles[name] for name in tests}, "test"),
        },
    )


def _roles(answer: StudySummary) -> dict[str, Confirmed]:
    baseline = [each for each in answer.order[1:] if each.trial == BASELINE]
    return dict(zip(("winner", "baseline"), [*answer.order[:1], *baseline], strict=False))


def _validation(study: Study, roles: Mapping[str, Confirmed]) -> dict[str, list[dict[str, float]]]:
    runs = {(run["trial"], run["seed"]): run for run in study.confirmed()}
    return {name: [_bare(runs[each.trial, seed]) for seed in each.seeds] for name, each in roles.items()}


def _bare(metrics: Mapping[str, float]) -> dict[str, float]:
    """`wf1`, `acc` and `f1/<class>`, without the split before them and what else a record holds."""
    named = {key.partition("/")[2]: value for key, value in metrics.items()}
    return {key: value for key, value in named.items() if key in ("wf1", "acc") or key.startswith("f1/")}


def _predictions(study: Study, roles: Mapping[str, Confirmed], split: str) -> dict[str, Predictions]:
    paths = {name: study.predictions(each.trial, split) for name, each in roles.items()}
    return {name: Predictions.load(path) for name, path in paths.items() if path.is_file()}
