"""The end of a study: test is opened once for winner and baseline, and the winner becomes best.yaml.

Each look at the test split is entered in the study's ledger, test_looks.jsonl. What the two configs predict is kept
(tune.study.predictions), so that the report needs neither data nor another look.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from lfvd.data.corpus import Corpus
from lfvd.models.build import build_model
from lfvd.training.environment import configure_precision, pick_device, run_info
from lfvd.training.evaluation import Evaluation, evaluate
from lfvd.training.plots import confusion
from tune.analysis.conclusions import draw_conclusions
from tune.analysis.summary import summarize
from tune.search.confirmation import Confirmed, mean_std, settled
from tune.statistics import Difference, Resampled
from tune.study.predictions import Predictions
from tune.study.study import BASELINE, Study

Scores = list[dict[str, float]]
"""`test/…` metrics in 0..1 in the order of the plan's seeds."""


def open_test(study: Study, corpus: Corpus, numbers: list[int]) -> dict[int, Scores]:
    """Scores of trials on test; each is looked at once and then read from the ledger and the kept predictions.

    corpus: the whole one, with its test split.
    """
    known = study.test_scores()
    if missing := [n for n in numbers if n not in known or not study.paths.predictions(n, "test").is_file()]:
        look = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "host": socket.gethostname(),
            "user": os.environ.get("USER", f"uid {os.getuid()}"),
            "command": run_info("cpu")["command"],
            "data": corpus.fingerprint,
            "trials": missing,
            "seeds": list(study.plan.confirm.seeds),
        }
        study.test_log.log_evaluation(look)  # before it: whatever happens meanwhile, the look is on record
        study.test_log.log_scores(
            {n: [_named("test", each.scores()) for each in _predict(study, corpus, n, "test")] for n in missing}
        )
    known = study.test_scores()
    return {n: known[n] for n in numbers}


def _named(split: str, scores: dict[str, float]) -> dict[str, float]:
    return {f"{split}/{k}": v for k, v in scores.items()}


def _predict(study: Study, corpus: Corpus, trial: int, split: str) -> list[Evaluation]:
    """What a confirmed config's seeds say of a split, also kept in the study's folder."""
    seeds, config = study.plan.confirm.seeds, study.config_of(trial)
    device = pick_device(config.run.device)
    configure_precision(config.run.precision)
    found = []
    for seed in seeds:
        model = build_model(config, corpus.widths(config.data.modalities), len(corpus.info.classes)).to(device)
        model.load_state_dict(load_file(study.paths.weights(trial, seed)))
        found.append(evaluate(model, corpus, split, device=device))
    kept = Predictions.of(corpus, found, seeds, model.modalities)
    study.retry_on_full_disk(lambda: kept.save(study.paths.predictions(trial, split)))
    return found


def write_best(study: Study, corpus: Corpus) -> Path:
    """The winner as `best.yaml`: the Config that `lfvd train` reads, with `provenance:`. Opens test where there is one."""
    order = settled(study)
    shown = [order[0].trial, *(c.trial for c in order[1:] if c.trial == BASELINE)]
    for number in shown:
        _predict(study, corpus, number, "valid")
    tests = open_test(study, corpus, shown) if len(corpus.indices("test")) else {}
    _draw_confusion(study)
    path = study.folder / "best.yaml"
    study.config_of(order[0].trial).to_yaml(path, _provenance(study, tests))
    return path


def _provenance(study: Study, tests: dict[int, Scores]) -> dict[str, Any]:
    answer = summarize(study)
    winner, said = answer.order[0], draw_conclusions(study, answer)
    baseline = next((c for c in answer.order if c.trial == BASELINE), None)
    return {
        "study": study.name,
        "trial": winner.trial,
        "values": study.params_of(winner.trial),
        "statement": list(said.sentences),
        "warnings": list(said.warnings),
        "noise": answer.variance.summary() if answer.variance else None,
        "against_baseline": {"validation": _rounded(answer.validation), "test": _rounded(answer.test)},
        "search_score": answer.search_score and _percent(answer.search_score),
        "seeds": list(winner.seeds),
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


def _rounded(found: Difference | Resampled | None) -> dict[str, float] | None:
    """Percent points and p values; None where nothing was compared."""
    if found is None:
        return None
    ends = {name: _percent(getattr(found, name)) for name in ("mean", "low", "high")}
    exact = {"exact_p": round(found.exact, 5)} if isinstance(found, Difference) else {}
    return {**ends, "p": round(found.p, 5), **exact}


def _draw_confusion(study: Study) -> None:
    """The winner's confusion matrix on validation, over all seeds."""
    trial, seeds = settled(study)[0].trial, study.plan.confirm.seeds
    found = Predictions.load(study.paths.predictions(trial, "valid"))
    title = f"{study.name}: trial {trial}, validation split, {len(seeds)} seeds; {study.data.title}"
    confusion(study.folder / "confusion_valid.png", found.confusion(), classes=list(found.classes), title=title)


def _figures(confirmed: Confirmed, tests: dict[int, Scores]) -> dict[str, Any]:
    """Percent, mean and std over seeds, of validation and, where opened, test."""
    mean, std = dict(confirmed.mean), dict(confirmed.std)
    if confirmed.trial in tests:
        test_mean, test_std = mean_std(tests[confirmed.trial])
        mean, std = {**mean, **test_mean}, {**std, **test_std}
    names = [k for k in mean if k.split("/")[1] in ("wf1", "acc", "f1")]
    return {k: {"mean": _percent(mean[k]), "std": _percent(std[k])} for k in names}


def _percent(value: float) -> float:
    return round(100 * value, 2)
