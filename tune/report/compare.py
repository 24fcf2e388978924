"""`compare-A-B.html`: several searches side by side, by what they confirmed, what they took, and where they differ.

write_comparison([Study.open(…), Study.open(…)], Path("results/compare-A-B.html"))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tune.analysis.summary import SIGNIFICANCE
from tune.formatting import format_hours, format_mean_std, format_p_value
from tune.parameter import Parameter
from tune.report import figures, result_figures
from tune.report.page import Chart, Group, Note, Page, Part, Row, Section, Table, write_page
from tune.report.report import notices
from tune.report.report_data import Material, gather
from tune.report.search_sections import range_of
from tune.search.trials import ranked
from tune.statistics import paired
from tune.study.study import BASELINE, Study, StudyError

NO_WINNER = Note(text="Nothing to show yet: no study has been through its confirmation.")

KICKER = "Hyperparameter searches of LFVD, compared"


def warnings_of(studies: Sequence[Study]) -> list[str]:
    """Why the studies cannot be compared as they are; none where they can."""
    found = []
    if len({study.data.fingerprint for study in studies}) > 1:
        data = ", ".join(f"{study.name}: {study.data.name} ({study.data.fingerprint[:12]})" for study in studies)
        found.append(f"The studies are of different data, so their scores cannot be compared: {data}.")
    if len({study.plan.confirm.seeds for study in studies}) > 1:
        found.append("The studies confirm on different seeds: differences of their means are not paired by seed.")
    return found


def write_comparison(studies: Sequence[Study], path: Path) -> Path:
    """Write the page, atomically → its path. Raises StudyError for a study given twice or without a trial."""
    names = [study.name for study in studies]
    if len(studies) < 2 or len(set(names)) < len(names):
        raise StudyError(f"compare: {', '.join(names)}: takes two studies or more, each once: name them")
    for study in studies:
        if not study.trials:
            raise StudyError(f"{study.folder}: has no trial to compare: start it with `lfvd-tune search`")
    return write_page(path, comparison_of([gather(study) for study in studies]))


def comparison_of(found: Sequence[Material]) -> Page:
    """The page."""
    studies = [each.study for each in found]
    simulated = {text: [s.name for s in studies if text in notices(s)] for study in studies for text in notices(study)}
    return Page(
        kicker=KICKER,
        title=" and ".join([", ".join(s.name for s in studies[:-1]), studies[-1].name]),
        facts=list(dict.fromkeys(study.data.name for study in studies)),
        notices=[*warnings_of(studies), *(f"{text} ({', '.join(names)})" for text, names in simulated.items())],
        answer=_answer(found),
        summary=[_summary(found)],
        sections=[_confirmed(found), _worth(found), _differing(studies)],
    )


def _answer(found: Sequence[Material]) -> list[str]:
    """Whose winner is better, as far as the seeds can tell."""
    done = sorted((each for each in found if each.roles), key=lambda each: each.roles["winner"].wf1, reverse=True)
    waiting = [each.study.name for each in found if not each.roles]
    said = [f"Not confirmed yet: {', '.join(waiting)}."] if waiting else []
    if len(done) < 2:
        return [*said, "There are no two confirmed winners to compare."]
    if warnings_of([each.study for each in done]):
        return [*said, "Which search found the better winner cannot be said: see the warning above."]
    return [*(_against(done[0], other, len(done) - 1) for other in done[1:]), *said]


def _against(leader: Material, other: Material, among: int) -> str:
    """The leader's winner against another's, over the same seeds."""
    a, b = leader.roles["winner"], other.roles["winner"]
    names = f"{leader.study.name} and {other.study.name}"
    if len(a.scores) < 2:
        return f"With a single seed nothing can be said of the winners of {names}."
    # Each winner was chosen among its finalists by these same seeds.
    among *= max(1, len(leader.answer.order) - 1)
    lead = paired(a.scores, b.scores, among=among)
    by = f"{format_mean_std(lead.mean, lead.high - lead.mean)} W-F1 points on validation"
    how = f"({lead.n} seeds, {format_p_value(lead.p)})"
    if lead.p < SIGNIFICANCE:
        return f"The winner of {leader.study.name} beats that of {other.study.name} by {by} {how}."
    return f"No difference could be shown between the winners of {names}: {leader.study.name} is ahead by {by} {how}."


def _summary(found: Sequence[Material]) -> Table:
    head = ["study", "winner: validation", "winner: test", "baseline: validation", "trials", "search"]
    shown = (("valid", "winner"), ("test", "winner"), ("valid", "baseline"))
    rows = [
        Row(
            cells=[
                each.study.name,
                *(_score(each, split, role) for split, role in shown),
                str(len(each.study.trials)),
                format_hours(each.hours.search, each.hours.unit),
            ]
        )
        for each in found
    ]
    return Table(head=head, rows=rows, caption="W-F1 in percent: mean ± half of the 95 % interval over the seeds.")


def _score(material: Material, split: str, role: str) -> str:
    """A baseline that wins is its study's winner too."""
    roles = material.scores[split]
    rows = roles.get(role) or (roles.get("winner") if role == "baseline" and _baseline_won(material) else None)
    return result_figures.with_interval([100 * row["wf1"] for row in rows]) if rows else "–"


def _baseline_won(material: Material) -> bool:
    return bool(material.roles) and material.roles["winner"].trial == BASELINE


def _confirmed(found: Sequence[Material]) -> Section:
    how = (
        "Winner and baseline of each study. Each grey point is one seed; the diamond is the mean, and its bar the 95 % interval. "
        "The cross is the single score that the search saw."
    )
    rows = {
        f"{figures.plain(each.study.name)}: {result_figures.name_of(config.trial, each.roles['winner'].trial)}": (
            each.study,
            config,
        )
        for each in found
        for config in each.roles.values()
    }
    parts: list[Part] = [NO_WINNER]
    if rows:
        least = 200 + 6 * max(map(len, rows))  # names stand beside the points
        parts = [Chart(plot=result_figures.by_seed(rows), label="Confirmed W-F1 of winners and baselines", least=least)]
    return Section(key="confirmed", title="Confirmed, seed by seed", how=how, parts=parts)


def _worth(found: Sequence[Material]) -> Section:
    how = (
        "What a search of so many trials, or hours, finds on average (line), give or take one standard deviation (band). The "
        "higher line at the hours that one can afford is the better bargain (Dodge et al., 2019)."
    )
    curves = {
        figures.plain(each.study.name): ([figures.best_of(t) for t in ranked(each.study)], each.hours) for each in found
    }
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    if not curves:
        return Section(key="worth", title="Expected best", how=how, parts=[Note(text="No trial came to a score yet.")])
    charts = [
        Chart(plot=figures.expected(curves, by_hours=by_hours), label=f"Expected best score against {against}")
        for by_hours, against in ((True, "hours"), (False, "trials"))
    ]
    parts: list[Part] = [Group(parts=charts)]
    if len({hours.unit for _, hours in curves.values()}) > 1:
        mixed = "Some of these studies ran on GPUs and some on processor cores: their hours do not cost the same."
        parts.insert(0, Note(text=mixed, warning=True))
    return Section(key="worth", title="Expected best", how=how, parts=parts)


def _differing(studies: Sequence[Study]) -> Section:
    """Ranges and settings that are not the same in all studies."""
    how = "Searched ranges, and all other settings, in which the studies are not alike; the rest is the same in all."
    settings = [_settings(study) for study in studies]
    keys = dict.fromkeys(key for each in settings for key in each)
    rows = [
        Row(cells=[key, *(_in_words(each.get(key)) for each in settings)])
        for key in keys
        if any(each.get(key) != settings[0].get(key) for each in settings)
    ]
    head = ["", *(study.name for study in studies)]
    parts: list[Part] = [Table(head=head, rows=rows)] if rows else [Note(text="There is no difference.")]
    return Section(key="differing", title="What differs", how=how, parts=parts)


def _in_words(setting: Any) -> str:
    if isinstance(setting, Parameter):
        return range_of(setting)
    return "–" if setting is None else str(setting)


def _settings(study: Study) -> dict[str, Any]:
    """All that a plan says: values, and of what is searched the Parameter."""
    plan = study.plan
    fixed, searched = plan.config.flat(), plan.space
    rest = {
        f"{section}.{key}": value
        for section in ("sampler", "scheduler", "confirm", "budget", "resources")
        for key, value in vars(getattr(plan, section)).items()
    }
    return {**searched, **{k: v for k, v in fixed.items() if k not in searched}, "trials": plan.trials, **rest}
