"""`compare-A-B.html`: several studies side by side: confirmed results, compute time and differing settings.

write_comparison([Study.open(…), Study.open(…)], Path("results/compare-A-B.html"))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lfvd.files import write_text
from tune.analysis.conclusions import evaluation_warnings
from tune.analysis.summary import SIGNIFICANCE
from tune.formatting import format_hours, format_mean_std, format_p_value
from tune.parameter import Parameter
from tune.report.page import render
from tune.report.report import range_text
from tune.report.report_data import ReportData, gather, simulated_notice
from tune.report.result_figures import by_run, mean_text, name_of
from tune.report.search_figures import best_of, expected, plain
from tune.search.trials import ranked
from tune.statistics import paired
from tune.study.plan_file import StudyError
from tune.study.study import BASELINE, Study


def warnings_of(studies: Sequence[Study]) -> list[str]:
    """Why the studies cannot be compared as they are; none where they can."""
    found = []
    if len({study.data.fingerprint for study in studies}) > 1:
        data = ", ".join(f"{study.name}: {study.data.name} ({study.data.fingerprint[:12]})" for study in studies)
        found.append(f"The studies are of different data, so their scores cannot be compared: {data}.")
    if len({study.plan.confirm.seeds for study in studies}) > 1:
        found.append("The studies confirm on different seeds: differences of their means are not paired by seed.")
    if len(kinds := {str(study.plan.confirm.folds) for study in studies}) > 1:
        found.append(f"The studies chose their winners by different `confirm.folds` ({', '.join(sorted(kinds))}).")
    return found


def evaluations_warnings(studies: Sequence[Study]) -> list[str]:
    """Told where the test split of the studies' data was evaluated more than once."""
    return list(dict.fromkeys(warning for study in studies for warning in evaluation_warnings(study)))


def write_comparison(studies: Sequence[Study], path: Path) -> Path:
    """Write the page, atomically → its path. Raises StudyError for a study given twice or without a trial."""
    names = [study.name for study in studies]
    if len(studies) < 2 or len(set(names)) < len(names):
        raise StudyError(f"compare: {', '.join(names)}: takes two studies or more, each once: name them")
    for study in studies:
        if not study.trials:
            raise StudyError(f"{study.folder}: has no trial to compare: start it with `lfvd-tune search`")
    write_text(path, comparison_html([gather(study) for study in studies]))
    return path


def comparison_html(found: Sequence[ReportData]) -> str:
    """The page."""
    studies = [each.study for each in found]
    names = [study.name for study in studies]
    simulated: dict[str, list[str]] = {}
    for study in studies:
        for text in simulated_notice(study):
            simulated.setdefault(text, []).append(study.name)
    scores = {plain(each.study.name): ([best_of(t) for t in ranked(each.study)], each.compute) for each in found}
    curves = {name: curve for name, curve in scores.items() if curve[0]}
    return render(
        "compare.html",
        title=" and ".join([", ".join(names[:-1]), names[-1]]),
        facts=list(dict.fromkeys(study.data.name for study in studies)),
        notices=[*warnings_of(studies), *(f"{text} ({', '.join(which)})" for text, which in simulated.items())],
        answer=_answer(found),
        warnings=evaluations_warnings(studies),
        names=names,
        summary_rows=[_summary_row(each) for each in found],
        confirmed={
            f"{plain(each.study.name)}: {name_of(config.trial, each.roles['winner'].trial)}": (each.study, config)
            for each in found
            for config in each.roles.values()
        },
        curves=curves,
        units=len({compute.unit for _, compute in curves.values()}),
        differing=_differing(studies),
        by_run=by_run,
        expected=expected,
    )


def _answer(found: Sequence[ReportData]) -> list[str]:
    """Whose winner is better, as far as the seeds can tell."""
    done = sorted((each for each in found if each.roles), key=lambda each: each.roles["winner"].wf1, reverse=True)
    waiting = [each.study.name for each in found if not each.roles]
    missing = [f"Not confirmed yet: {', '.join(waiting)}."] if waiting else []
    if len(done) < 2:
        return [*missing, "There are no two confirmed winners to compare."]
    if warnings_of([each.study for each in done]):
        return [*missing, "Which search found the better winner cannot be said: see the warning above."]
    return [*(_against(done[0], other, len(done) - 1) for other in done[1:]), *missing]


def _against(leader: ReportData, other: ReportData, among: int) -> str:
    """The leader's winner against another's, over the same seeds."""
    a, b = leader.roles["winner"], other.roles["winner"]
    names = f"{leader.study.name} and {other.study.name}"
    if len(a.scores) < 2:
        return f"With a single seed nothing can be said of the winners of {names}."
    # Each winner was chosen among its finalists by these same seeds.
    lead = paired(a.scores, b.scores, among=among * max(1, leader.summary.candidates))
    by = f"{format_mean_std(lead.mean, lead.high - lead.mean)} W-F1 points on validation"
    how = f"({lead.n} seeds, {format_p_value(lead.p)})"
    if lead.p < SIGNIFICANCE:
        return f"The winner of {leader.study.name} beats that of {other.study.name} by {by} {how}."
    return f"No difference could be shown between the winners of {names}: {leader.study.name} is ahead by {by} {how}."


def _summary_row(data: ReportData) -> list[str]:
    winner, scores = data.roles.get("winner"), data.scores["validation"]
    baseline = "winner" if winner and winner.trial == BASELINE else "baseline"
    shown = (scores.get("winner", []), data.scores["test"].get("winner", []), scores.get(baseline, []))
    return [
        data.study.name,
        *(mean_text(row["wf1"] for row in rows) for rows in shown),
        str(len(data.study.trials)),
        format_hours(data.compute.search, data.compute.unit),
    ]


def _differing(studies: Sequence[Study]) -> list[list[str]]:
    """Ranges and settings that are not the same in all studies."""
    settings = [_settings(study) for study in studies]
    keys = dict.fromkeys(key for each in settings for key in each)
    return [
        [key, *(_setting_text(each.get(key)) for each in settings)]
        for key in keys
        if any(each.get(key) != settings[0].get(key) for each in settings)
    ]


def _setting_text(setting: Any) -> str:
    if isinstance(setting, Parameter):
        return range_text(setting)
    return "–" if setting is None else str(setting)


def _settings(study: Study) -> dict[str, Any]:
    """All that a plan says: values, and of what is searched the Parameter."""
    plan = study.plan
    fixed = {key: value for key, value in plan.config.flat().items() if key not in plan.space}
    sections = {
        f"{section}.{key}": value
        for section in ("sampler", "scheduler", "confirm", "budget", "resources")
        for key, value in vars(getattr(plan, section)).items()
    }
    return {**plan.space, **fixed, "trials": plan.trials, **sections}
