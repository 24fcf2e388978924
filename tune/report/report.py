"""`report.html`: a study's results, their certainty, and the course of the search, read from its folder alone.

write_report(Study.open(Path("results/demo")))      reads no data and evaluates nothing

An unfinished study has a report too; it says what is not known yet.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lfvd.files import write_text
from tune.analysis.conclusions import comparison_text, spread_sentence
from tune.analysis.importance import finished_search
from tune.formatting import format_hours, format_minute, format_value
from tune.parameter import Parameter
from tune.report import result_figures, search_figures
from tune.report.page import render
from tune.report.report_data import ReportData, gather, simulated_notice
from tune.report.result_figures import mean_text, name_of
from tune.report.search_figures import best_of, ending
from tune.search.stages import comparison, fault_unit, overlap
from tune.search.trials import ranked
from tune.statistics import expected_best
from tune.study.study import Study

MOST_FAULTS = 30
"""Faults shown, the last ones."""


def write_report(study: Study) -> Path:
    """Write the report into the study's folder, atomically → its path. Raises InputError for a damaged file."""
    path = study.folder / "report.html"
    write_text(path, report_html(study))
    return path


def report_html(study: Study) -> str:
    """The page."""
    if not study.trials:
        return render(
            "report.html",
            title=study.name,
            facts=[study.data.name],
            notices=simulated_notice(study),
            answer=["Nothing is known yet: no trial has begun."],
            warnings=[],
            data=None,
        )
    data = gather(study)
    order, stage = data.summary.order, comparison(study)
    return render(
        "report.html",
        title=study.name,
        facts=_facts(data),
        notices=simulated_notice(study),
        answer=data.conclusions.sentences,
        warnings=data.conclusions.warnings,
        data=data,
        study=study,
        figures=_figures(data),
        dropped=[each for each in order if each.drop],
        unit=stage.unit,
        expected=list(expected_best([best_of(trial) for trial in ranked(study)])[0]) if ranked(study) else [],
        summary_head=[
            "",
            *([f"{len(stage.units)} folds"] if study.folds else []),
            *(f"{split} W-F1" for split in _evaluated(data)),
        ],
        summary_rows=_summary_rows(data),
        paper_rows=_paper_rows(data),
        value_rows=_value_rows(data),
        fault_rows=_fault_rows(study),
        faults=len(study.faults()),
        provenance_rows=_provenance_rows(study),
        files=_files(study),
        commands=_commands(study),
        comparison_text=comparison_text,
        spread_sentence=spread_sentence,
        hours=lambda hours: format_hours(hours, data.compute.unit),
    )


def _figures(data: ReportData) -> dict[str, Any]:
    """All figures by name; None where there is too little to draw."""
    study = data.study
    differ = len({best_of(trial) for trial in ranked(study)}) > 1
    search, keys = finished_search(study), [each.key for each in data.summary.importance] or list(study.plan.space)
    found = {
        "history": search_figures.history(search) if differ else None,
        "curves": search_figures.learning_curves(study),
        "importance": search_figures.importance_bars(data.summary.importance),
        "slices": search_figures.slices(study, search, keys, data.roles) if differ else {},
        "parallel": search_figures.parallel(search) if differ else None,
        "worth": search_figures.worth(data),
    }
    if not data.roles:
        return found
    winner, stage = data.roles["winner"].trial, comparison(study)
    names = {each.trial: name_of(each.trial, winner) for each in data.summary.order}
    for each in data.summary.order:
        if each.drop:
            names[each.trial] += f", {len(each.units)} {stage.unit}s"
    published = data.paper.get("LFVD", {}) if data.split == "test" else {}
    return found | {
        "finalists": result_figures.by_run(
            {names[each.trial]: (study, each) for each in data.summary.order}, stage.unit, overlap(study)
        ),
        "emotions": result_figures.f1_by_class(data.scores[data.split], data.classes, published, split=data.split),
        "lengths": result_figures.wf1_by_dialogue_length(data.predictions[data.split]),
        "fusion": result_figures.fusion_weights(data.predictions[data.split].get("winner")),
    }


def _facts(data: ReportData) -> list[str]:
    """Data, size, cost and date."""
    study, compute = data.study, data.compute
    ends = Counter("stopped early" if "stopped" in ending(trial) else ending(trial) for trial in study.trials)
    states = ", ".join(f"{count} {end}" for end, count in ends.items())
    runs = sum(len(study.confirmed(stage)) for stage in {study.stage, comparison(study).name})
    facts = [
        study.data.name,
        f"{len(study.trials)} of {study.plan.trials} trials ({states})",
        f"{runs} runs of confirmation",
        format_hours(compute.search + compute.confirmation, compute.unit),
    ]
    return [*facts, f"begun {study.began:%Y-%m-%d}"] if study.began else facts


def _evaluated(data: ReportData) -> list[str]:
    return ["validation", "test"] if data.scores["test"] else ["validation"]


def _summary_rows(data: ReportData) -> list[list[str]]:
    """W-F1 of winner and baseline on each split, and of LFVD as published."""
    folds = {each.trial: each.scores for each in data.summary.order}
    rows = [
        [
            name_of(each.trial, data.roles["winner"].trial),
            *([mean_text(folds.get(each.trial, ()), overlap(data.study))] if data.study.folds else []),
            *(mean_text(row["wf1"] for row in data.scores[split].get(role, [])) for split in _evaluated(data)),
        ]
        for role, each in data.roles.items()
    ]
    if (paper := data.paper.get("LFVD")) and data.scores["test"]:
        rows.append(["LFVD as published", *[""] * (len(rows[0]) - 2), f"{paper['wf1']:.2f}"])
    return rows


def _paper_rows(data: ReportData) -> list[list[str]]:
    """The paper's Table 2 or 3, and below it the means of ours."""
    keys = [*data.classes, "acc", "wf1"]
    rows = []
    for system, row in data.paper.items():
        cells = ["–" if row.get(key) is None else f"{row[key]:.2f}" for key in keys]
        rows.append(["LFVD as published" if system == "LFVD" else system, *cells])
    for role, seeds in sorted(data.scores["test"].items()):
        names = [key if key in ("acc", "wf1") else f"f1/{key}" for key in keys]
        means = [100 * fmean(row[name] for row in seeds) for name in names]
        rows.append([f"ours: {role}", *(f"{mean:.2f}" for mean in means)])
    return rows


def _value_rows(data: ReportData) -> list[list[str]]:
    """Range, baseline's and winner's value, and importance of each searched key."""
    study, winner = data.study, data.roles.get("winner")
    found = {each.key: each for each in data.summary.importance}
    values = study.params_of(winner.trial) if winner else {}
    rows = []
    for key, parameter in study.plan.space.items():
        importance = "–"
        if key in found:
            importance = f"{100 * found[key].share:.0f} %" if found[key].shown else "within chance"
        value = format_value(values[key]) if key in values else "–"
        rows.append([key, range_text(parameter), format_value(study.plan.baseline[key]), value, importance])
    return rows


def range_text(parameter: Parameter) -> str:
    """`1e-05 to 0.01 (log)`, or the choices."""
    if parameter.choices:
        return ", ".join(str(choice) for choice in parameter.choices)
    return f"{parameter.low:g} to {parameter.high:g}" + (" (log)" if parameter.log else "")


def _fault_rows(study: Study) -> list[list[str]]:
    """Time, place, reason and remedy of the last faults; the seed is named where it is one of the plan's."""
    rows = []
    for fault in study.faults()[-MOST_FAULTS:]:
        where = (f"trial {fault['trial']}" if "trial" in fault else "study") + fault_unit(fault)
        rows.append([format_minute(fault["time"]), where, fault["reason"], fault["then"]])
    return rows


def _provenance_rows(study: Study) -> list[list[str]]:
    looks = [
        f"{format_minute(look['time'])} by {look['user']} on {look['host']}" for look in study.test_log.evaluations()
    ]
    versions = study.info.get("versions", {})
    return [
        ["data", study.data.name],
        ["fingerprint of the data", study.data.fingerprint],
        ["simulated", ", ".join(study.data.simulated) or "nothing"],
        ["evaluations on test", f"{len(looks)}: {'; '.join(looks)}" if looks else "none: it is not evaluated yet"],
        ["commit", study.info.get("commit", "unknown")],
        ["device", study.info.get("device", "unknown")],
        ["versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown"],
        ["command", study.info.get("command", "unknown")],
    ]


def _files(study: Study) -> dict[str, str]:
    paths = [study.folder / name for name in ("best.yaml", "plan.yaml")]
    return {path.name: path.read_text(encoding="utf-8") for path in paths if path.is_file()}


def _commands(study: Study) -> list[str]:
    """What trains and evaluates the winner again and extends the search; without a winner, what resumes the study."""
    best, data = study.folder / "best.yaml", os.path.relpath(study.data.path)
    resume = ["lfvd-tune", "resume", study.name, "--results", str(study.folder.parent)]
    if not best.is_file():
        return [shlex.join(resume)]
    runs, seeds = f"runs/{study.name}", ",".join(str(seed) for seed in study.plan.confirm.seeds)
    commands: Sequence[list[str]] = [
        ["lfvd", "train", str(best), "--data", data, "--seeds", seeds, "--out", runs],
        ["lfvd", "evaluate", runs, "--data", data, "--split", "test"],
        [*resume, "--trials", str(2 * study.plan.trials)],
    ]
    return [shlex.join(words) for words in commands]
