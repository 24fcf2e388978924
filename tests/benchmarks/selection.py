"""How well a way of choosing finds configs that are good on dialogues nobody chose by: nested evaluation on train + valid.

python tests/benchmarks/selection.py tasks tasks.json    what to train: 48 configs x divisions x seeds
python tests/benchmarks/selection.py record data/meld_text.safetensors tasks.json curves.jsonl --jobs 2 --device cpu
python tests/benchmarks/selection.py replay results/selection_curves.jsonl

An outer fold of train + valid stands in for test; the rest is divided as the product divides train + valid: once into train and
a small valid split (`official`), and into five folds (`fold`). Each run is one JSON line with its curves on its validation part and
on the outer fold. `record` needs nothing of the tuner, so that it runs wherever the model trains; what is recorded is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

OUTERS, INNER, CONFIGS, EPOCHS = 3, 5, 48, 14
OFFICIAL_SEEDS = (0, 1, 2, 3, 4)


def tasks(args: argparse.Namespace) -> None:
    """The preset and random configs of the shipped plan, by outer fold and kind of run; the most useful runs first."""
    import optuna

    from tune.plan import SearchPlan
    from tune.search.samplers import sampler_for

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = SearchPlan.from_yaml("search_spaces/meld_text.yaml")
    plan = replace(plan, sampler=replace(plan.sampler, kind="random", seed=1000))
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(plan.baseline)
    configs = []
    for number in range(CONFIGS):
        study.sampler = sampler_for(plan, number)
        values = study.ask({key: p.distribution for key, p in plan.space.items()}).params
        configs.append((values, plan.config_of(values).flat()))
    found = []
    for outer in range(OUTERS):
        # Folds and the first seeds of all configs first: a recording that is cut short is of use.
        for kind, number in [
            ("official", 0),
            ("fold", 0),
            ("official", 1),
            ("fold", 1),
            ("fold", 2),
            ("official", 2),
            ("fold", 3),
            ("fold", 4),
            ("refit", 0),
            ("official", 3),
            ("official", 4),
            ("refit", 1),
        ]:
            for index, (values, flat) in enumerate(configs):
                found.append(
                    {"outer": outer, "kind": kind, "number": number, "config": index, "values": values, "flat": flat}
                )
    args.tasks.write_text(json.dumps(found))
    print(f"{len(found)} runs")


def outer_corpus(path: str, outer: int) -> Any:
    """Train + valid of a corpus with outer fold number `outer` as its test split, and a tenth of the rest as valid."""
    from lfvd.data.corpus import Corpus
    from lfvd.data.folds import TEST, TRAIN, VALID, deal_dialogues

    corpus = Corpus.open(path).restricted("train", "valid")
    import numpy as np

    test = deal_dialogues(corpus, INNER, seed=1000) == outer
    corpus = replace(corpus, split=np.where(test, TEST, TRAIN))
    valid = deal_dialogues(corpus, 10, seed=2000) == 0
    return replace(corpus, split=np.where(test, TEST, np.where(valid, VALID, TRAIN)))


def train_one(job: tuple[str, dict[str, Any], str]) -> dict[str, Any]:
    """In a process of its own → the run with its curves."""
    import numpy as np

    from lfvd.config import Config
    from lfvd.data.folds import TEST, TRAIN, VALID, divide
    from lfvd.training.evaluation import evaluate
    from lfvd.training.trainer import _Run

    path, task, device = job
    corpus = outer_corpus(path, task["outer"])
    if task["kind"] == "fold":
        corpus = divide(corpus, INNER, deal=0, fold=task["number"])
    if task["kind"] == "refit":  # all of train + valid; its score is read on the outer fold only
        corpus = replace(corpus, split=np.where(corpus.split == TEST, VALID, TRAIN))
    config = Config().with_values({**task["flat"], "run.device": device, "run.epochs": EPOCHS, "run.threads": 1})
    started = time.perf_counter()
    run = _Run(config, corpus, task["number"])  # the loop of lfvd.training.trainer.train, with a look at the outer fold
    curves: dict[str, list[float]] = {
        name: [] for name in ("wf1", "acc", "loss", "outer_wf1", "outer_acc", "outer_loss", "train_loss")
    }
    while not run.finished():
        record = run.epoch()
        for name in ("wf1", "acc", "loss"):
            curves[name].append(round(record[f"val/{name}"], 5))
        curves["train_loss"].append(round(record["train/loss"], 5))
        if task["kind"] != "refit":
            outer = evaluate(run.model, corpus, "test", device=run.device)
            scores = outer.scores()
            curves["outer_wf1"].append(round(scores["wf1"], 5))
            curves["outer_acc"].append(round(scores["acc"], 5))
            curves["outer_loss"].append(round(outer.loss, 5))
    seconds = round(time.perf_counter() - started, 1)
    kept = {k: task[k] for k in ("outer", "kind", "number", "config", "values")}
    return {**kept, "seconds": seconds, "device": device, **{k: v for k, v in curves.items() if v}}


def record(args: argparse.Namespace) -> None:
    """Train what is missing, in order, until all is done or `--seconds` are over; a run that is at work then is lost."""
    started = time.monotonic()

    def name(run: dict[str, Any]) -> tuple[Any, ...]:
        return run["outer"], run["kind"], run["number"], run["config"]

    known = {name(json.loads(line)) for line in args.curves.read_text().splitlines()} if args.curves.exists() else set()
    missing = [task for task in json.loads(args.tasks.read_text()) if name(task) not in known]
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool, args.curves.open("a") as file:
        done = pool.imap_unordered(train_one, [(str(args.data), task, args.device) for task in missing])
        for count in range(1, len(missing) + 1):
            try:
                run = done.next(timeout=args.seconds - (time.monotonic() - started) if args.seconds else None)
            except multiprocessing.TimeoutError:
                break
            file.write(json.dumps(run) + "\n")
            file.flush()
            if count % 16 == 0:
                print(f"{count} of {len(missing)} after {time.monotonic() - started:.0f} s", flush=True)
        pool.terminate()


def smooth(curve: list[float], width: int = 3) -> float:
    """Best mean of neighbouring epochs."""
    return max(sum(curve[i : i + width]) / width for i in range(len(curve) - width + 1))


SCORES = {
    "best W-F1": lambda run: max(run["wf1"]),
    "best W-F1 of three epochs": lambda run: smooth(run["wf1"]),
    "least loss": lambda run: -min(run["loss"]),
    "best accuracy": lambda run: max(run["acc"]),
    "W-F1 + accuracy of three epochs": lambda run: smooth([a + b for a, b in zip(run["wf1"], run["acc"], strict=True)]),
}
"""Ways to score a run by its validation curves."""


def replay(args: argparse.Namespace) -> None:
    """Correlation of each score with the truth, over all configs and the better half, and the regret of its first."""
    import numpy as np

    recorded = [run for run in map(json.loads, args.curves.read_text().splitlines()) if run["outer"] == 0]
    runs = {(run["kind"], run["number"], run["config"]): run for run in recorded}
    chosen = {key: run["outer_wf1"][int(np.argmax(run["wf1"]))] for key, run in runs.items() if key[0] == "official"}
    seeds = sorted({number for _, number, _ in chosen})
    truth = 100 * np.array([[chosen["official", seed, c] for c in range(CONFIGS)] for seed in seeds])
    print(
        f"truth: {truth.mean():.2f} on average, {truth.mean(0).max():.2f} the best, {truth.mean(0)[0]:.2f} the preset\n"
    )
    print("| runs | score | all configs | better half | regret |\n|---|---|---|---|---|")
    folds = [k for k in range(INNER) if all(("fold", k, c) in runs for c in range(CONFIGS))]
    ways = (
        [("official", [seed]) for seed in seeds]
        + [("official", seeds)]
        + [("fold", [k]) for k in folds]
        + [("fold", folds)]
    )
    for (kind, numbers), (name, score) in itertools.product(ways, SCORES.items()):
        others = [i for i in seeds if [i] != numbers or kind == "fold"]  # a single run is no part of its own truth
        true = truth[others].mean(0)
        found = np.array([np.mean([score(runs[kind, k, c]) for k in numbers]) for c in range(CONFIGS)])
        half = true > np.median(true)
        cells = [np.corrcoef(found[part], true[part])[0, 1] for part in (true > 0, half)]
        regret = true.max() - true[int(found.argmax())]
        print(f"| {kind} {numbers} | {name} | {cells[0]:.2f} | {cells[1]:.2f} | {regret:.2f} |")


def main() -> None:
    """The commands of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("tasks")
    command.add_argument("tasks", type=Path)
    command.set_defaults(run=tasks)
    command = commands.add_parser("record")
    command.add_argument("data", type=Path)
    command.add_argument("tasks", type=Path)
    command.add_argument("curves", type=Path)
    command.add_argument("--jobs", type=int, default=2)
    command.add_argument("--device", default="cpu")
    command.add_argument("--seconds", type=float, default=0.0)
    command.set_defaults(run=record)
    command = commands.add_parser("replay")
    command.add_argument("curves", type=Path)
    command.set_defaults(run=replay)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
