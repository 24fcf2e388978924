"""The two stages after a search: finalists are compared over folds, then winner and baseline are averaged over the plan's seeds.

A plan without folds has one stage: finalists are compared over its seeds, and these are the averages of record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tune.search.job import Division
from tune.study.study import Study

FOLDS = "folds"
"""Stage of the comparison over folds in the study's files; a run's `seed` there is the number of its fold."""

SEARCH_DEAL, COMPARISON_DEAL = 0, 1
"""Deals of the dialogues into folds. The search is scored on a fold of another deal than the comparison's, so that its dialogues
are spread over all of those. Sessions know no deals: the search is scored on the first, which the comparison has too."""

OFFICIAL_DEAL = 1000
"""A fold of it is the validation split where a corpus has none."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Runs of the same units for each trial that takes part."""

    name: str
    """In epochs.jsonl, confirm.jsonl and faults.jsonl."""
    units: tuple[int, ...]
    racing: bool

    @property
    def unit(self) -> str:
        """`fold` or `seed`."""
        return unit_of(self.name)


def comparison(study: Study) -> Stage:
    """The stage that ranks the finalists."""
    plan = study.plan.confirm
    if study.folds:
        units = tuple(range(study.folds * plan.folds_repeats))
        return Stage(name=FOLDS, units=units, racing=plan.race)
    return Stage(name=study.stage, units=plan.seeds, racing=plan.race)


def unit_of(stage: str) -> str:
    """What a run of a stage after the search is of: `fold` or `seed`."""
    return "fold" if stage == FOLDS else "seed"


def fault_unit(fault: Mapping[str, Any]) -> str:
    """`, fold 2` of a fault of a run after the search; empty for others."""
    stage = fault.get("stage", "search")
    return "" if stage == "search" else f", {unit_of(stage)} {fault['seed']}"


def averaging(study: Study) -> Stage:
    """The stage whose averages are on record: the plan's seeds on the official split."""
    return Stage(name=study.stage, units=study.plan.confirm.seeds, racing=False)


def division(study: Study, stage: str, unit: int = 0) -> Division | None:
    """What a run of a stage trains on and is scored on; None: the official split."""
    if not study.folds or stage == study.stage:
        return None
    deal, fold = divmod(unit, study.folds)
    deal = COMPARISON_DEAL + deal if stage == FOLDS else SEARCH_DEAL
    return Division(folds=study.plan.confirm.folds, deal=deal, fold=fold)


def overlap(study: Study) -> float:
    """Part of the variance of a mean over folds that more of them would not reduce: size of a fold by that of the others.

    Nadeau and Bengio 2003, "Inference for the Generalization Error", eq. 17: training parts of folds overlap. 0 over seeds.
    """
    return 1 / (study.folds - 1) if study.folds else 0.0
