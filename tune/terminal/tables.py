"""Prints the tables of `status` and `best`, read from a study's folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tune.analysis.conclusions import draw_conclusions, spread_sentence
from tune.analysis.summary import StudySummary, run_spread, summarize
from tune.formatting import format_mean_std, format_minute, format_params, format_percent
from tune.search.confirmation import Confirmed, averaged_trials, race_state, scores_of
from tune.search.stages import averaging, comparison, fault_unit
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
    race, stage = race_state(study), comparison(study)
    alive = ", ".join(f"trial {number}" for number in race.alive)
    pending = f"; {len(race.pending_runs)} pending, in the race: {alive}" if race.pending_runs else ""
    done = scores_of(study, averaging(study))
    if missing := [
        n for n in averaged_trials(study, race) for seed in study.plan.confirm.seeds if (n, seed) not in done
    ]:
        pending = f"; {len(missing)} pending, of winner and baseline over seeds"
    folds = f"{len(study.confirmed(stage.name))} runs over folds, " if study.folds else ""
    _print(console, f"confirmation: {folds}{len(study.confirmed())} runs over seeds{pending}")
    for drop in race.dropped:
        _print(console, f"trial {drop.trial} {drop.reason(stage.unit)}")
    if spread := run_spread(study):
        _print(console, f"noise: {spread_sentence(spread)}")
    _print(console, f"test evaluations: {len(study.test_log.evaluations())}")


def print_faults(study: Study, console: Console) -> None:
    """Print the last faults and what followed each; those that ended a run come before those that did not."""
    faults = study.faults()
    if len(faults) > MAX_ROWS:
        _print(console, f"{MAX_ROWS} of {len(faults)} faults ({study.folder / 'faults.jsonl'} has all):")
    latest = sorted(range(len(faults)), key=lambda i: (faults[i]["then"] == "failed", i))[-MAX_ROWS:]
    for fault in (faults[i] for i in sorted(latest)):
        where = (study.name_of(fault["trial"]) if "trial" in fault else "study") + fault_unit(fault)
        style = "red" if fault["then"] == "failed" else "yellow"
        _print(console, f"{format_minute(fault['time'])} {where} {fault['then']}: {fault['reason']}", style)


def print_best(study: Study, console: Console) -> None:
    """Print the ranked finalists, F1 by class of winner and baseline, the conclusions, and the commands to type next."""
    tests, summary = study.test_scores(), summarize(study)
    order, conclusions = summary.order, draw_conclusions(study, summary)
    _print_title(study, console)
    console.print(_finalists_table(study, summary, tests))
    for drop in (each.drop for each in order if each.drop):
        _print(console, f" trial {drop.trial} {drop.reason(comparison(study).unit)}")
    console.print(_classes_table(summary, tests))
    _print(console, f"winner: trial {order[0].trial}   {format_params(study.params_of(order[0].trial))}\n")
    for sentence in conclusions.sentences:
        _print(console, sentence, "bold")
    if summary.spread:
        _print(console, f"noise: {spread_sentence(summary.spread)}")
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


def _finalists_table(study: Study, summary: StudySummary, tests: TestScores) -> Table:
    seeds, folds = len(study.plan.confirm.seeds), len(comparison(study).units) if study.folds else 0
    caption = f"mean ± standard deviation over {seeds} seed{'s' * (seeds > 1)}, percent"
    caption += f", folds over {folds} folds; ranked by folds" if folds else "; ranked by validation alone"
    caption += "; of fewer, dim, where it was dropped" * any(each.drop is not None for each in summary.order)
    table = Table(
        box=box.SIMPLE_HEAD, title="finalists", title_justify="left", caption=caption, caption_justify="left", padding=0
    )
    for name in (
        "trial",
        "search",
        *(["folds W-F1", "val W-F1"] if folds else ["val W-F1", "val acc"]),
        "test W-F1",
        "test acc",
    ):
        table.add_column(name, justify="right", no_wrap=True, overflow="fold")
    for rank, each in enumerate(summary.order):
        search = max(study.trials[each.trial].intermediate_values.values())
        name = f"{each.trial}" + (" baseline" if each.trial == BASELINE else "") + (" ←" if rank == 0 else "")
        cells = [_cell(each, "val/wf1")] if folds else [_cell(each, "val/wf1"), _cell(each, "val/acc")]
        cells += [_cell(summary.averages.get(each.trial), "val/wf1")] if folds else []
        cells += [_test_cell(tests.get(each.trial), f"test/{key}") for key in ("wf1", "acc")]
        style = "bold" if rank == 0 else "dim" if each.drop else None
        table.add_row(name, format_percent(search), *cells, style=style)
    return table


def _classes_table(summary: StudySummary, tests: TestScores) -> Table:
    winner = summary.averages[summary.order[0].trial]
    baseline = [each for n, each in summary.averages.items() if n == BASELINE != winner.trial]
    columns = dict(zip(("winner", "baseline"), [winner, *baseline], strict=False))
    table = Table(box=box.SIMPLE_HEAD, title="F1 by class", title_justify="left")
    table.add_column("class")
    for name in columns:
        table.add_column(f"{name} val", justify="right")
        table.add_column(f"{name} test", justify="right")
    for key in (key.removeprefix("val/") for key in winner.mean if key.startswith("val/f1/")):
        cells = [
            cell
            for each in columns.values()
            for cell in (_cell(each, f"val/{key}"), _test_cell(tests.get(each.trial), f"test/{key}"))
        ]
        table.add_row(escape(key.removeprefix("f1/")), *cells)
    return table


def _cell(finalist: Confirmed | None, metric: str) -> str:
    """Mean and deviation over runs; `·` without any."""
    return "·" if finalist is None else format_mean_std(finalist.mean[metric], finalist.std[metric])


def _test_cell(rows: list[dict[str, float]] | None, metric: str) -> str:
    """Mean and deviation over seeds on test; `·` where it was not evaluated."""
    if rows is None:
        return "·"
    mean, std = mean_std(rows)
    return format_mean_std(mean[metric], std[metric])
