"""The end of a study: evaluates winner and baseline on test once, and writes the winner as best.yaml.

Each evaluation of the test split is logged in test_looks.jsonl and in the ledger of the data. The predictions of the two configs are kept
(tune.study.predictions), so that the report needs neither the data nor another evaluation.
"""

from __future__ import annotations

import math
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from lfvd.data.corpus import Corpus
from lfvd.models.build import build_model
from lfvd.training.environment import configure_precision, pick_device, run_info
from lfvd.training.evaluation import Evaluation, evaluate
from lfvd.training.plots import confusion
from tune.analysis.conclusions import draw_conclusions
from tune.analysis.summary import StudySummary, summarize
from tune.search.confirmation import Confirmed, averages, final_ranking
from tune.statistics import Difference, Resampled, mean_std
from tune.study.predictions import Predictions
from tune.study.study import BASELINE, Study

SeedScores = list[dict[str, float]]
"""`test/…` metrics in 0..1 of each seed, in the order of the plan's seeds."""


def evaluate_test(study: Study, corpus: Corpus, trials: list[int]) -> dict[int, SeedScores]:
    """Scores of trials on test; each trial is evaluated once, and then read from the log and the kept predictions.

    corpus: with its test split.
    """
    known = study.test_scores()
    if missing := [n for n in trials if n not in known or not study.paths.predictions(n, "test").is_file()]:
        evaluation = {
            "time": datetime.now().astimezone().isoformat(timespec="microseconds"),
            "host": socket.gethostname(),
            "user": os.environ.get("USER", f"uid {os.getuid()}"),
            "command": run_info("cpu")["command"],
            "data": corpus.fingerprint,
            "trials": missing,
            "seeds": list(study.plan.confirm.seeds),
        }
        study.test_log.log_evaluation(evaluation)  # first: it is on record whatever happens meanwhile
        study.retry_on_full_disk(study.test_log.log_in_ledger)
        scores = {n: [each.scores() for each in _predict(study, corpus, n, "test")] for n in missing}
        study.test_log.log_scores({n: [{f"test/{k}": v for k, v in s.items()} for s in scores[n]] for n in missing})
    known = study.test_scores()
    return {n: known[n] for n in trials}


def _predict(study: Study, corpus: Corpus, trial: int, split: str) -> list[Evaluation]:
    """Evaluate a confirmed config on a split with each of its seeds, and keep the predictions in the study's folder."""
    seeds, config = study.plan.confirm.seeds, study.config_of(trial)
    device = pick_device(config.run.device)
    configure_precision(config.run.precision)
    evaluations = []
    for seed in seeds:
        model = build_model(config, corpus.widths(config.data.modalities), len(corpus.info.classes)).to(device)
        model.load_state_dict(load_file(study.paths.weights(trial, seed)))
        evaluations.append(evaluate(model, corpus, split, device=device))
    predictions = Predictions.of(corpus, evaluations, seeds, model.modalities)
    study.retry_on_full_disk(lambda: predictions.save(study.paths.predictions(trial, split)))
    return evaluations


def write_best(study: Study, corpus: Corpus) -> Path:
    """Write the winner as `best.yaml`, the Config that `lfvd train` reads, with `provenance:`. Evaluates test if there is one."""
    winner, confirmed = final_ranking(study)[0].trial, averages(study)
    compared = [winner, *(n for n in confirmed if n == BASELINE != winner)]
    for trial in compared:
        _predict(study, corpus, trial, "valid")
    tests = evaluate_test(study, corpus, compared) if len(corpus.indices("test")) else {}
    valid = Predictions.load(study.paths.predictions(winner, "valid"))
    seeds = len(study.plan.confirm.seeds)
    title = f"{study.name}: trial {winner}, validation split, {seeds} seeds; {study.data.title}"
    confusion(study.folder / "confusion_valid.png", valid.confusion(), classes=list(valid.classes), title=title)
    path = study.folder / "best.yaml"
    study.config_of(winner).to_yaml(path, _provenance(study, tests))
    return path


def _provenance(study: Study, tests: dict[int, SeedScores]) -> dict[str, Any]:
    summary = summarize(study)
    first, conclusions = summary.order[0], draw_conclusions(study, summary)
    winner, baseline = summary.averages[first.trial], summary.averages.get(BASELINE)
    return {
        "study": study.name,
        "trial": winner.trial,
        "values": study.params_of(winner.trial),
        "statement": list(conclusions.sentences),
        "warnings": list(conclusions.warnings),
        "spread": summary.spread.summary() if summary.spread else None,
        "against_baseline": {"validation": _rounded(summary.validation), "test": _rounded(summary.test)},
        "search_score": summary.search_score and _percent(summary.search_score),
        **({"folds": _folds(summary)} if study.folds else {}),
        "seeds": list(winner.units),
        "winner": _figures(winner, tests),
        "baseline": _figures(baseline, tests) if baseline else None,
        "data": {
            "name": study.data.name,
            "fingerprint": study.data.fingerprint,
            "simulated": list(study.data.simulated),
        },
        "looks_at_test": len(study.test_log.evaluations()),
        **run_info("cpu"),
    }


def _folds(summary: StudySummary) -> dict[str, Any]:
    """Validation W-F1 of the compared trials over their folds, the best first."""
    return {
        f"trial {each.trial}": {
            "mean": _percent(each.wf1),
            "std": _percent(each.std["val/wf1"]),
            "folds": len(each.units),
        }
        for each in summary.order
    }


def _rounded(found: Difference | Resampled | None) -> dict[str, float] | None:
    """Percent points and p values; None where nothing was compared."""
    if found is None:
        return None
    points = {name: _percent(getattr(found, name)) for name in ("mean", "low", "high")}
    exact = {"exact_p": round(found.exact, 5)} if isinstance(found, Difference) and not math.isnan(found.exact) else {}
    return {**points, "p": round(found.p, 5), **exact}


def _figures(confirmed: Confirmed, tests: dict[int, SeedScores]) -> dict[str, Any]:
    """Percent, mean and std over seeds, of validation and, where evaluated, test."""
    mean, std = dict(confirmed.mean), dict(confirmed.std)
    if confirmed.trial in tests:
        test_mean, test_std = mean_std(tests[confirmed.trial])
        mean, std = {**mean, **test_mean}, {**std, **test_std}
    names = [k for k in mean if k.split("/")[1] in ("wf1", "acc", "f1")]
    return {k: {"mean": _percent(mean[k]), "std": _percent(std[k])} for k in names}


def _percent(value: float) -> float:
    return round(100 * value, 2)
