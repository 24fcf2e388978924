"""What `status` and `best` print: tables of a study, read from its folder."""

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
from tune.search.confirmation import Confirmed, final_ranking, mean_std, race_state
from tune.search.trials import STOPPED, WORDS, ranked, tally
from tune.study.lock import holder_at_work
from tune.study.study import BASELINE, Study

TOP = 8
"""Trials shown by `status`."""


def title(study: Study) -> str:
    """`demo: MELD (simulated), SIMULATED: language, audio, visual`."""
    return f"{study.name}: {study.data.title}"


def show_status(study: Study, console: Console) -> None:
    """States, the best trials, failures with their reasons, and how far the confirmation is."""
    trials = study.trials
    console.print(f"\n[bold]{escape(title(study))}[/]")
    counts = tally(WORDS[t.state] for t in trials)
    driver = holder_at_work(study.folder)
    if driver is None:
        counts = {"unfinished": counts.pop("running"), **counts}
    console.print(f"driver: {driver or 'none at work'}", markup=False)
    states = " · ".join(f"{count} {word}" for word, count in counts.items())
    console.print(f"search: {len(trials)} of {study.plan.trials} trials: {states}")
    if best := ranked(study)[:TOP]:
        console.print(_trials(best))
        console.print(f"trial {best[0].number}: {format_params(best[0].params)}", markup=False)
    show_faults(study, console)
    _show_confirmation(study, console)
    console.print(f"looks at the test split: {len(study.test_log.evaluations())}")


def _show_confirmation(study: Study, console: Console) -> None:
    """How far the race is, whom it dropped, and how much the answer depends on luck."""
    race = race_state(study)
    alive = ", ".join(f"trial {number}" for number in race.alive)
    still = f"; {len(race.pending_runs)} wanted now, in the race: {alive}" if race.pending_runs else ""
    console.print(f"confirmation: {len(study.confirmed())} runs{still}")
    for drop in (drop for drop in race.dropped if drop.trial != BASELINE):  # it runs all seeds whatever comes
        console.print(f"trial {drop.trial} {drop.reason()}", markup=False, soft_wrap=True)
    if noise := seed_variance(study):
        console.print(f"noise: {seed_variance_sentence(noise)}", markup=False, soft_wrap=True)


def show_faults(study: Study, console: Console) -> None:
    """The last faults and what was done about each; those that ended a run are not crowded out by those that did not."""
    faults = study.faults()
    if len(faults) > TOP:
        console.print(f"{TOP} of {len(faults)} faults ({study.folder / 'faults.jsonl'} has all):", markup=False)
    shown = sorted(range(len(faults)), key=lambda i: (faults[i]["then"] == "failed", i))[-TOP:]
    for fault in (faults[i] for i in sorted(shown)):
        where = study.name_of(fault["trial"]) if "trial" in fault else "study"
        where += f", seed {fault['seed']}" if fault.get("stage") == study.stage else ""
        time = fault["time"][:16].replace("T", " ")
        style = "red" if fault["then"] == "failed" else "yellow"
        console.print(f"{time} {where} {fault['then']}: {fault['reason']}", style=style, markup=False)


def _trials(trials: Sequence[FrozenTrial]) -> Table:
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


def show_best(study: Study, console: Console) -> None:
    """The finalists, ranked; winner and baseline by class, on validation and, where opened, test; what to type next."""
    order = final_ranking(study)
    tests = study.test_scores()
    console.print(f"\n[bold]{escape(title(study))}[/]")
    console.print(_ranking(study, order, tests))
    for drop in (each.drop for each in order if each.drop):
        console.print(f" trial {drop.trial} {drop.reason()}", markup=False, soft_wrap=True)
    console.print(_classes(order, tests))
    console.print(f"winner: trial {order[0].trial}   {format_params(study.params_of(order[0].trial))}", markup=False)
    _show_answer(study, console)
    best, data = study.folder / "best.yaml", os.path.relpath(study.data.path)
    seeds = ",".join(str(s) for s in study.plan.confirm.seeds)
    console.print(f"\nwritten: {best}, {study.folder / 'report.html'}\nnext:", highlight=False)
    for line in (
        f"lfvd train {best} --data {data} --seeds {seeds} --out runs/{study.name}",
        f"lfvd evaluate runs/{study.name} --data {data} --split test",
    ):
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


def _show_answer(study: Study, console: Console) -> None:
    """The statement, the noise floor, and the warnings."""
    answer = summarize(study)
    said = draw_conclusions(study, answer)
    console.print()
    for sentence in said.sentences:
        console.print(sentence, style="bold", markup=False, soft_wrap=True)
    if answer.variance:
        console.print(f"noise: {seed_variance_sentence(answer.variance)}", markup=False, soft_wrap=True)
    for warning in said.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)


def _ranking(study: Study, order: Sequence[Confirmed], tests: Mapping[int, list[dict[str, float]]]) -> Table:
    seeds = len(study.plan.confirm.seeds)
    caption = f"mean ± standard deviation over {seeds} seed{'s' * (seeds > 1)}, percent; ranked by validation alone"
    caption += "; of fewer, dim, where it was dropped" * any(len(each.seeds) < seeds for each in order)
    table = Table(
        box=box.SIMPLE_HEAD, title="finalists", title_justify="left", caption=caption, caption_justify="left", padding=0
    )
    for name in ("trial", "search", "val W-F1", "val acc", "test W-F1", "test acc"):
        table.add_column(name, justify="right", no_wrap=True, overflow="fold")
    for place, each in enumerate(order):
        search = max(study.trials[each.trial].intermediate_values.values())
        name = f"{each.trial}" + (" baseline" if each.trial == BASELINE else "") + (" ←" if place == 0 else "")
        cells = [format_percent(search), *(format_mean_std(each.mean[k], each.std[k]) for k in ("val/wf1", "val/acc"))]
        cells += _test_cells(tests.get(each.trial), ("test/wf1", "test/acc"))
        table.add_row(name, *cells, style="bold" if place == 0 else "dim" if each.drop else None)
    return table


def _classes(order: Sequence[Confirmed], tests: Mapping[int, list[dict[str, float]]]) -> Table:
    shown = {"winner": order[0]}
    if baseline := [c for c in order[1:] if c.trial == BASELINE]:
        shown["baseline"] = baseline[0]
    table = Table(box=box.SIMPLE_HEAD, title="F1 by class", title_justify="left")
    table.add_column("class")
    for name in shown:
        table.add_column(f"{name} val", justify="right")
        table.add_column(f"{name} test", justify="right")
    for key in (k for k in order[0].mean if k.startswith("val/f1/")):
        cells: list[str] = []
        for each in shown.values():
            cells.append(format_mean_std(each.mean[key], each.std[key]))
            cells += _test_cells(tests.get(each.trial), (key.replace("val/", "test/"),))
        table.add_row(escape(key.removeprefix("val/f1/")), *cells)
    return table


def _test_cells(rows: list[dict[str, float]] | None, keys: Sequence[str]) -> list[str]:
    if rows is None:
        return ["·"] * len(keys)
    mean, std = mean_std(rows)
    return [format_mean_std(mean[k], std[k]) for k in keys]
