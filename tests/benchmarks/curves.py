"""Learning curves of real MELD text, recorded once, from which searches are replayed: `results/meld_text_curves.jsonl`.

python tests/benchmarks/curves.py data/meld_text.safetensors random       three random searches, 48 configs each
python tests/benchmarks/curves.py data/meld_text.safetensors best         their winners over five seeds
python tests/benchmarks/curves.py data/meld_text.safetensors search       three searches by search_spaces/meld_text.yaml, of a quarter of the epochs
python tests/benchmarks/curves.py data/meld_text.safetensors incumbents   what those held at their end, likewise

One JSON object a run: `group` and `number` say what it is, `values` its config, `wf1` validation W-F1 of every epoch, and
`order` for the searches in which order their epochs came. What is recorded is not run again. Needs about 40 minutes on two cores.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FILE = ROOT / "results" / "meld_text_curves.jsonl"
PLAN = ROOT / "search_spaces" / "meld_text.yaml"
REPETITIONS, CONFIGS, EPOCHS = (0, 1, 2), 48, 14
SEEDS = (0, 1, 2, 3, 4)
SHARE = 1 / 4
"""Of random search's epochs, after which a search ends."""


def recorded() -> list[dict[str, Any]]:
    """All runs of the file."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def group(name: str) -> list[dict[str, Any]]:
    """The runs of a group, by number."""
    return sorted((run for run in recorded() if run["group"] == name), key=lambda run: run["number"])


def plan(**sampler: Any) -> Any:
    """The shipped plan with another sampler."""
    from dataclasses import replace

    from tune.plan import SearchPlan

    shipped = SearchPlan.from_yaml(PLAN)
    assert shipped.scheduler.max_epochs == EPOCHS
    return replace(shipped, sampler=replace(shipped.sampler, **sampler))


def train_one(task: tuple[str, dict[str, Any], dict[str, Any], int]) -> dict[str, Any]:
    """In a process of its own → the run to record."""
    from lfvd.config import Config
    from lfvd.data.corpus import Corpus
    from lfvd.training.trainer import train

    path, run, flat, seed = task
    corpus = Corpus.open(path).restricted("train", "valid")
    history = train(Config().with_values(flat), corpus, seed).history
    seconds = round(sum(record["seconds"] for record in history), 1)
    return {**run, "seed": seed, "seconds": seconds, "wf1": [round(record["val/wf1"], 5) for record in history]}


def record(tasks: Iterable[tuple[str, dict[str, Any], dict[str, Any], int]]) -> None:
    """Train what is missing, two at a time, and write each run down when it is done."""
    known = {(run["group"], run["number"]) for run in recorded()}
    missing = [task for task in tasks if (task[1]["group"], task[1]["number"]) not in known]
    with multiprocessing.get_context("spawn").Pool(2) as pool, FILE.open("a") as file:
        for count, run in enumerate(pool.imap_unordered(train_one, missing), start=1):
            file.write(json.dumps(run) + "\n")
            file.flush()
            print(f"{count} of {len(missing)}: {run['group']} {run['number']}: {max(run['wf1']):.4f}", flush=True)


def random_search(path: str) -> None:
    """Configs of Optuna's random sampler, each trained to its end with the seed that a search would give it."""
    import optuna

    from tune.search.samplers import sampler_for, training_seed

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tasks = []
    for repetition in REPETITIONS:
        chosen = plan(kind="random", seed=repetition)
        study = optuna.create_study(direction="maximize")
        for number in range(CONFIGS):
            study.sampler = sampler_for(chosen, number)
            values = study.ask({key: p.distribution for key, p in chosen.space.items()}).params
            seed = training_seed(chosen.sampler, number, taken=SEEDS)
            run = {"group": f"random {repetition}", "number": number, "values": values}
            tasks.append((path, run, chosen.config_of(values).flat(), seed))
    record(tasks)


def confirm(path: str, name: str, values: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any], dict[str, Any], int]]:
    """The tasks of a config over the five seeds."""
    for seed in SEEDS:
        run = {"group": name, "number": seed, "values": values}
        yield path, run, plan().config_of(values).flat(), seed


def best(path: str) -> None:
    """Random search's answers."""
    tasks: list[Any] = []
    for repetition in REPETITIONS:
        winner = max(group(f"random {repetition}"), key=lambda run: max(run["wf1"]))
        tasks += confirm(path, f"random {repetition} best", winner["values"])
    record(tasks)


def search(path: str) -> None:
    """The product's own search, for as many epochs as the largest share of random search's."""
    from lfvd.data.corpus import Corpus
    from tune.execution import ray_cluster, ray_jobs
    from tune.search.trials import SearchJobs
    from tune.study.plan_file import DataSource
    from tune.study.study import Study

    corpus = Corpus.open(path).restricted("train", "valid")
    budget = int(SHARE * CONFIGS * EPOCHS)

    class Budgeted(SearchJobs):
        def stopping(self) -> bool:
            return super().stopping() or self.spent.epochs >= budget

    for repetition in REPETITIONS:
        if group(f"search {repetition}"):
            continue
        with tempfile.TemporaryDirectory() as folder, ray_cluster.cluster(plan().resources):
            study = Study.start(Path(folder) / "study", plan(seed=repetition), DataSource.of(corpus, path), {})
            ray_jobs.run_jobs(Budgeted(study, lambda: False), corpus, study.plan.resources)
            runs: dict[int, dict[str, Any]] = {}
            for order, line in enumerate((study.folder / "epochs.jsonl").read_text().splitlines()):
                epoch = json.loads(line)
                empty = {
                    "group": f"search {repetition}",
                    "number": epoch["trial"],
                    "seed": epoch["seed"],
                    "seconds": 0.0,
                    "wf1": [],
                    "order": [],
                }
                run = runs.setdefault(epoch["trial"], empty)
                run["wf1"].append(round(epoch["val/wf1"], 5))
                run["seconds"] = round(run["seconds"] + epoch["seconds"], 1)
                run["order"].append(order)
            for number, run in runs.items():
                run["values"] = study.trials[number].params
        with FILE.open("a") as file:
            file.writelines(json.dumps(run) + "\n" for run in runs.values())
        print(
            f"search {repetition}: {len(runs)} trials, {sum(len(run['wf1']) for run in runs.values())} epochs",
            flush=True,
        )


def incumbent(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The trial with the best value of a search's epochs."""
    return max(runs, key=lambda run: max(run["wf1"]))


def incumbents(path: str) -> None:
    """What each search held at its end, over the five seeds."""
    tasks: list[Any] = []
    for repetition in REPETITIONS:
        held = incumbent(group(f"search {repetition}"))
        tasks += confirm(path, f"search {repetition} trial {held['number']}", held["values"])
    record(tasks)


if __name__ == "__main__":
    {"random": random_search, "best": best, "search": search, "incumbents": incumbents}[sys.argv[2]](sys.argv[1])
