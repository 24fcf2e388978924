"""Prints the tables of `status` and `best`, read from a study's folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tune.analysis.conclusions import draw_conclusions, seed_variance_sentence
from tune.analysis.summary import seed_variance, summarize
from tune.formatting import format_mean_std, format_params, format_percent
from tune.search.confirmation import Confirmed, final_ranking, race_state
from tune.search.trials import STOPPED, WORDS, ranked, tally
from tune.statistics import mean_std
from tune.study.lock import holder_at_work
from tune.study.study import BASELINE, Study

MAX_ROWS = 8
"""Trials, and faults, that `status` shows."""

TestScores = Mapping[int, list[dict[str, float]]]
"""Trial → its scores on test, seed by seed."""


def print_status(study: Study, console: Console) -> None:
    """Print the trials by state, the best ones, faults, and the state of the confirmation."""
    trials, driver = study.trials, holder_at_work(study.folder)
    counts = tally(WORDS[trial.state] for trial in trials)
    if driver is None:
        counts = {"unfinished": counts.pop("running"), **counts}
    _print_title(study, console)
    _print(console, f"driver: {driver or 'none at work'}")
    states = " · ".join(f"{count} {word}" for word, count in counts.items())
    _print(console, f"search: {len(trials)} of {study.plan.trials} trials: {states}")
    if best := ranked(study)[:MAX_ROWS]:
        console.print(_trials_table(best))
        _print(console, f"trial {best[0].number}: {format_params(best[0].params)}")
    print_faults(study, console)
    race = race_state(study)
    alive = ", ".join(f"trial {number}" for number in race.alive)
    pending = f"; {len(race.pending_runs)} pending, in the race: {alive}" if race.pending_runs else ""
    _print(console, f"confirmation: {len(study.confirmed())} runs{pending}")
    for drop in race.dropped:
        if drop.trial != BASELINE:  # it runs on all seeds, whatever its scores
            _print(console, f"trial {drop.trial} {drop.reason()}")
    if variance := seed_variance(study):
        _print(console, f"noise: {seed_variance_sentence(variance)}")
    _print(console, f"test evaluations: {len(study.test_log.evaluations())}")


def print_faults(study: Study, console: Console) -> None:
    """Print the last faults and what followed each; those that ended a run come before those that did not."""
    faults = study.faults()
    if len(faults) > MAX_ROWS:
        _print(console, f"{MAX_ROWS} of {len(faults)} faults ({study.folder / 'faults.jsonl'} has all):")
    latest = sorted(range(len(faults)), key=lambda i: (faults[i]["then"] == "failed", i))[-MAX_ROWS:]
    for fault in (faults[i] for i in sorted(latest)):
        where = study.name_of(fault["trial"]) if "trial" in fault else "study"
        where += f", seed {fault['seed']}" if fault.get("stage") == study.stage else ""
        time = fault["time"][:16].replace("T", " ")
        style = "red" if fault["then"] == "failed" else "yellow"
        _print(console, f"{time} {where} {fault['then']}: {fault['reason']}", style)


def print_best(study: Study, console: Console) -> None:
    """Print the ranked finalists, F1 by class of winner and baseline, the conclusions, and the commands to type next."""
    order, tests, summary = final_ranking(study), study.test_scores(), summarize(study)
    conclusions = draw_conclusions(study, summary)
    _print_title(study, console)
    console.print(_finalists_table(study, order, tests))
    for drop in (each.drop for each in order if each.drop):
        _print(console, f" trial {drop.trial} {drop.reason()}")
    console.print(_classes_table(order, tests))
    _print(console, f"winner: trial {order[0].trial}   {format_params(study.params_of(order[0].trial))}\n")
    for sentence in conclusions.sentences:
        _print(console, sentence, "bold")
    if summary.variance:
        _print(console, f"noise: {seed_variance_sentence(summary.variance)}")
    for warning in conclusions.warnings:
        _print(console, f"warning: {warning}", "yellow")
    best, data = study.folder / "best.yaml", os.path.relpath(study.data.path)
    seeds = ",".join(str(seed) for seed in study.plan.confirm.seeds)
    _print(console, f"\nwritten: {best}, {study.folder / 'report.html'}\nnext:")
    _print(console, f"  lfvd train {best} --data {data} --seeds {seeds} --out runs/{study.name}")
    _print(console, f"  lfvd evaluate runs/{study.name} --data {data} --split test")


def _print_title(study: Study, console: Console) -> None:
    console.print(f"\n[bold]{escape(f'{study.name}: {study.data.title}')}[/]")


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _trials_table(trials: Sequence[FrozenTrial]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="best trials of the search", title_justify="left")
    for name in ("trial", "val W-F1 %", "epochs"):
        table.add_column(name, justify="right")
    table.add_column("end")
    for trial in trials:
        end = f"stopped at {trial.user_attrs[STOPPED]}" if STOPPED in trial.user_attrs else WORDS[trial.state]
        end = "unfinished" if trial.state == TrialState.RUNNING else end
        name = f"{trial.number}" + (" (baseline)" if trial.number == BASELINE else "")
        best = max(trial.intermediate_values.values())
        table.add_row(name, format_percent(best), str(max(trial.intermediate_values)), end)
    return table


def _finalists_table(study: Study, order: Sequence[Confirmed], tests: TestScores) -> Table:
    seeds = len(study.plan.confirm.seeds)
    caption = f"mean ± standard deviation over {seeds} seed{'s' * (seeds > 1)}, percent; ranked by validation alone"
    caption += "; of fewer, dim, where it was dropped" * any(len(each.seeds) < seeds for each in order)
    table = Table(
        box=box.SIMPLE_HEAD, title="finalists", title_justify="left", caption=caption, caption_justify="left", padding=0
    )
    for name in ("trial", "search", "val W-F1", "val acc", "test W-F1", "test acc"):
        table.add_column(name, justify="right", no_wrap=True, overflow="fold")
    for rank, each in enumerate(order):
        search = max(study.trials[each.trial].intermediate_values.values())
        name = f"{each.trial}" + (" baseline" if each.trial == BASELINE else "") + (" ←" if rank == 0 else "")
        cells = _cells(each, tests, "wf1", "acc")
        style = "bold" if rank == 0 else "dim" if each.drop else None
        table.add_row(name, format_percent(search), *cells, style=style)
    return table


def _classes_table(order: Sequence[Confirmed], tests: TestScores) -> Table:
    baseline = [each for each in order[1:] if each.trial == BASELINE]
    columns = dict(zip(("winner", "baseline"), [order[0], *baseline], strict=False))
    table = Table(box=box.SIMPLE_HEAD, title="F1 by class", title_justify="left")
    table.add_column("class")
    for name in columns:
        table.add_column(f"{name} val", justify="right")
        table.add_column(f"{name} test", justify="right")
    for key in (key.removeprefix("val/") for key in order[0].mean if key.startswith("val/f1/")):
        cells = [cell for each in columns.values() for cell in _cells(each, tests, key)]
        table.add_row(escape(key.removeprefix("f1/")), *cells)
    return table


def _cells(finalist: Confirmed, tests: TestScores, *metrics: str) -> list[str]:
    """Mean and deviation of the metrics on validation, then on test, `·` where it was not evaluated."""
    cells = [format_mean_std(finalist.mean[f"val/{key}"], finalist.std[f"val/{key}"]) for key in metrics]
    if finalist.trial not in tests:
        return cells + ["·"] * len(metrics)
    mean, std = mean_std(tests[finalist.trial])
    return cells + [format_mean_std(mean[f"test/{key}"], std[f"test/{key}"]) for key in metrics]
