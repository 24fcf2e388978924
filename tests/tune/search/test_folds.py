"""The confirmation over folds, from the search's own fold to the averages over seeds, with real training in this process."""

from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import TrialState

from lfvd.data.folds import divide
from lfvd.files import read_yaml
from lfvd.training.trainer import train
from tests.helpers.invented import add_run, add_trial, never
from tests.helpers.plans import make_plan, start_study
from tests.helpers.workers import run_here
from tune import session
from tune.analysis.summary import summarize
from tune.best import write_best
from tune.plan import PlanError
from tune.report.report import report_html
from tune.search.confirmation import ConfirmJobs, averaged_trials, averages, compared, final_ranking, finalists, ranking
from tune.search.job import Division
from tune.search.stages import FOLDS, averaging, comparison
from tune.search.trials import SearchJobs

CONFIRM = {"finalists": 2, "folds": 3, "seeds": [0, 1], "race": False, "baseline_epochs": 5}
SHORT = {"trials": 3, "scheduler": {"kind": "none", "max_epochs": 2}, "confirm": CONFIRM}


def inside(corpus, division: Division | None):
    return corpus if division is None else divide(corpus, **vars(division))


@pytest.fixture
def compared_study(tmp_path, tiny_corpus):
    """Searched, and compared over folds."""
    corpus = tiny_corpus.restricted("train", "valid")
    study = start_study(tmp_path / "study", tiny_corpus, **SHORT)
    jobs = SearchJobs(study, never)
    run_here(jobs, corpus)
    run_here(ConfirmJobs(study, never), corpus)
    return study, corpus


def test_search_and_comparison_are_scored_on_folds(tmp_path, tiny_corpus):
    """Another deal for each; a run of the comparison is `train` on its division, with its fold's number as seed."""
    corpus = tiny_corpus.restricted("train", "valid")
    study = start_study(tmp_path / "study", tiny_corpus, **SHORT)
    search = SearchJobs(study, never)
    job = search.next()
    assert job.division == Division(folds=3, deal=0, fold=0)
    search.failed(job, "enough")
    run_here(search, corpus)
    jobs = ConfirmJobs(study, never)
    started = []
    while job := jobs.next():
        started.append(job)
    assert {(job.seed, job.division.deal, job.division.fold) for job in started} == {(k, 1, k) for k in range(3)}
    assert {job.config.run.epochs for job in started} == {2, 5}, "the baseline has its own length"
    assert not any(job.keep for job in started), "weights are kept of averages alone"


def test_repeated_folds_are_other_deals(tmp_path, tiny_corpus):
    study = start_study(tmp_path / "study", tiny_corpus, **{**SHORT, "confirm": {**CONFIRM, "folds_repeats": 2}})
    assert comparison(study).units == tuple(range(6))
    jobs = ConfirmJobs(study, never, [0])
    divisions = [job.division for job in iter(jobs.next, None)]
    assert [(each.deal, each.fold) for each in divisions] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]


def test_the_ranking_is_that_of_the_folds(compared_study):
    study, corpus = compared_study
    runs = {(run["trial"], run["seed"]): run for run in study.confirmed(FOLDS)}
    assert runs.keys() == {(n, k) for n in finalists(study) for k in range(3)}
    assert study.confirmed() == []
    trial = finalists(study)[0]
    alone = train(study.config_of(trial), inside(corpus, Division(folds=3, deal=1, fold=2)), 2)
    assert runs[trial, 2]["val/wf1"] == alone.best["val/wf1"]
    for each in ranking(study):
        assert each.wf1 == pytest.approx(np.mean([runs[each.trial, k]["val/wf1"] for k in range(3)]))
    assert [each.trial for each in compared(study)] == [each.trial for each in ranking(study)]
    assert final_ranking(study) == [], "the winner's averages over seeds are missing"


def test_winner_and_baseline_are_averaged_over_seeds_and_evaluated_on_test(compared_study, tiny_corpus):
    study, corpus = compared_study
    winner = compared(study)[0].trial
    jobs = ConfirmJobs(study, never, [winner, 0], averaging(study))
    run_here(jobs, corpus)
    assert averages(study).keys() == {winner, 0}
    assert {(run["trial"], run["seed"]) for run in study.confirmed()} == {(n, s) for n in {winner, 0} for s in (0, 1)}
    assert train(study.config_of(winner), corpus, 1).best["val/wf1"] == averages(study)[winner].scores[1]
    assert final_ranking(study)[0].trial == winner
    provenance = read_yaml(write_best(study, tiny_corpus))["provenance"]
    assert provenance["folds"].keys() == {f"trial {n}" for n in finalists(study)}
    assert provenance["seeds"] == [0, 1]
    [look] = study.test_log.evaluations()
    assert set(look["trials"]) == {winner, 0}


def test_a_corpus_without_valid(tmp_path, tiny_corpus):
    """A fold of a deal of its own stands in for it."""
    bare = replace(tiny_corpus, split=np.where(tiny_corpus.split == 2, 2, 0)).save(tmp_path / "bare.safetensors")
    plan = start_study(tmp_path / "study", tiny_corpus, **SHORT).plan
    found = session.open_corpus(tmp_path / "bare.safetensors", plan)
    assert np.array_equal(found.split, divide(bare, 3, deal=1000, fold=0).split)


def entered(study, table, stage):
    for trial, row in table.items():
        for unit, score in enumerate(row):
            add_run(study, trial, unit, score, stage)


@pytest.fixture
def three(make_study):
    """A study whose trials 1 and 2 and the baseline can be compared over three folds."""
    study = make_study(confirm=CONFIRM)
    for number in range(3):
        add_trial(study, TrialState.COMPLETE, [0.5 - number / 100], **({"optim.lr": 3e-3 * number} if number else {}))
    return study


def test_a_winner_whose_averages_fail_leaves_its_place_to_the_next(three):
    entered(three, {0: [0.4] * 3, 1: [0.6, 0.61, 0.6], 2: [0.5, 0.51, 0.52]}, FOLDS)
    assert averaged_trials(three) == [1, 0]
    three.log_fault("NonFiniteLoss", "failed", stage="confirm", trial=1, seed=1)
    assert (averaged_trials(three), final_ranking(three)) == ([2, 0], [])
    entered(three, {2: [0.5, 0.5], 0: [0.4, 0.4]}, None)
    assert [each.trial for each in final_ranking(three)] == [2, 0]


def test_a_finalist_that_was_dropped_takes_no_place(make_study):
    """Its mean over the folds that it ran may be higher than another's over all."""
    study = make_study(confirm={**CONFIRM, "finalists": 3, "folds": 5, "race": True})
    for number in range(4):
        add_trial(study, TrialState.COMPLETE, [0.5 - number / 100], **({"optim.lr": 3e-3 * number} if number else {}))
    easy_first = np.array([0.1, 0.1, 0.0, 0.0, 0.0])
    wobble = np.array([1, -1, 1, -1, 1]) / 1000
    for trial, score in ((1, 0.6), (2, 0.599)):
        entered(study, {trial: list(score + easy_first + wobble * (-1) ** trial)}, FOLDS)
    entered(study, {0: list(0.4 + easy_first), 3: list(0.58 + easy_first + wobble)[:2]}, FOLDS)
    first, *others = compared(study)
    assert (first.trial, [each.trial for each in others if each.drop]) == (1, [3]), "or this test shows nothing"
    study.log_fault("NonFiniteLoss", "failed", stage="confirm", trial=1, seed=1)
    assert averaged_trials(study) == [2, 0]


def test_a_baseline_that_failed_a_fold_is_reported_by_its_averages(three):
    entered(three, {0: [0.4] * 2, 1: [0.6, 0.61, 0.6], 2: [0.5, 0.51, 0.52]}, FOLDS)
    three.log_fault("NonFiniteLoss", "failed", stage=FOLDS, trial=0, seed=2)
    entered(three, {1: [0.6, 0.6], 0: [0.4, 0.4]}, None)
    summary = summarize(three)
    assert ([each.trial for each in summary.order], summary.validation) == ([1, 2], None)
    assert "trial 0 (baseline)" in report_html(three)
    assert "trial 0, fold 2" in report_html(three)


def test_the_number_of_folds_is_the_plans(tmp_path, tiny_corpus):
    """A plan may still change before the first trial."""
    study = start_study(tmp_path / "study", tiny_corpus, **SHORT)
    assert study.folds == 3
    again = start_study(tmp_path / "study", tiny_corpus, **{**SHORT, "confirm": {**CONFIRM, "folds": 0}})
    assert (again.folds, SearchJobs(again, never).next().division) == (0, None)


def test_sessions_are_not_dealt_again():
    with pytest.raises(PlanError, match="folds_repeats` deals dialogues anew"):
        make_plan(confirm={**CONFIRM, "folds": "session", "folds_repeats": 2})
