"""The chapters of a report on the search itself: history, learning curves, searched values, and what it was worth."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from tune.analysis.importance import Importance
from tune.formatting import format_hours, format_value
from tune.parameter import Parameter
from tune.report import figures
from tune.report.page import Chart, Group, Note, Part, Row, Section, Table
from tune.report.report_data import Material
from tune.search.trials import ranked
from tune.statistics import expected_best

ALIKE = Note(text="Left out: it takes two trials with different scores.")


def history(material: Material) -> Section:
    """Optuna's history."""
    how = (
        "Each point is the best epoch of one trial, in the order in which the trials began; the line is the best so far. "
        "A line that still rises at the end says that more trials may find more."
    )
    plot = figures.history(material.study)
    chart = Chart(plot=plot, label="Best validation W-F1 of each trial, and the best so far") if plot else ALIKE
    return Section(key="history", title="How the search went", how=how, parts=[chart])


def curves(material: Material) -> Section:
    """Learning curves and rungs."""
    plan = material.study.plan.scheduler
    how = "Each line is one trial: the best validation score that it had reached after so many epochs."
    if plan.kind == "asha":
        how += (
            f" At each rung (dotted) a trial is stopped unless it is among the best so far, about one in {plan.reduction}"
            ". The axis is stretched so that the rungs lie evenly."
        )
    plot = figures.learning_curves(material.study)
    chart = Chart(plot=plot, label="Learning curves of all trials") if plot else Note(text="No epoch has ended yet.")
    return Section(key="curves", title="Learning curves", how=how, parts=[chart])


def parameters(material: Material) -> Section:
    """Searched values: what was tried, what mattered, and how."""
    how = (
        "What was searched, what the winner has of it, and whether it mattered. A stopped trial counts with the score that it "
        "had reached."
    )
    study, found = material.study, material.answer.importance
    marks = {name: each.trial for name, each in material.roles.items()}
    keys = [each.key for each in found] or list(study.plan.space)
    bars, lines, slices = figures.importance_bars(found), figures.parallel(study), figures.slices(study, keys, marks)
    parts: list[Part] = [_values(material)]
    if bars:
        parts += [Chart(plot=bars, label="Importance of each searched value", title="What mattered"), Note(text=_BARS)]
    else:
        parts.append(Note(text="What mattered is left out: so few trials cannot tell it from chance."))
    if lines:
        charts = [Chart(plot=plot, label=f"Score against {key}") for key, plot in slices.items()]
        least = 110 * (1 + len(keys))
        whole = Chart(plot=lines, label="All searched values of each trial", title="All values together", least=least)
        marked = _MARKED if marks else ""
        parts += [Note(text=_SLICES.format(marked=marked)), Group(parts=charts), whole, Note(text=_LINES)]
    return Section(key="values", title="The searched values", how=how, parts=parts)


_BARS = (
    "Importance (PED-ANOVA) is how much a value tells whether a trial is among the best. Where the bar does not reach beyond the "
    "orange mark (grey bars), chance alone shows as much: nothing can be said of that value."
)
_SLICES = "Score against each value: each point is a trial, the bluer the later{marked}. Points crowd where the search looked closer."
_MARKED = "; the filled diamond is the winner, the open one the baseline, both with their score in the search"
_LINES = "Each line is a trial through all its values, the bluer the better its score (left axis)."


def _values(material: Material) -> Table:
    """Range, baseline's and winner's value of each searched key."""
    study, winner = material.study, material.roles.get("winner")
    importance = {each.key: each for each in material.answer.importance}
    values = study.params_of(winner.trial) if winner else {}
    rows = [
        Row(
            cells=[
                key,
                range_of(parameter),
                value_of(study.plan.baseline[key]),
                value_of(values.get(key)),
                _importance(importance.get(key)),
            ]
        )
        for key, parameter in study.plan.space.items()
    ]
    return Table(head=["value", "searched", "baseline", "winner", "importance"], rows=rows)


def range_of(parameter: Parameter) -> str:
    """`1e-05 to 0.01 (log)`, or the choices."""
    if parameter.choices:
        return ", ".join(str(choice) for choice in parameter.choices)
    return f"{parameter.low:g} to {parameter.high:g}" + (" (log)" if parameter.log else "")


def value_of(value: Any) -> str:
    """A setting in few characters."""
    return "–" if value is None else format_value(value)


def _importance(found: Importance | None) -> str:
    if found is None:
        return "–"
    return f"{100 * found.share:.0f} %" if found.shown else "within chance"


def worth(material: Material) -> Section:
    """Expected best against trials and hours."""
    how = (
        "What a search of so many trials like these finds on average (line), give or take one standard deviation (band), by "
        "drawing trials of this one at random: where the line is flat, more trials or hours bring little. It takes the trials "
        "as independent of their order, so a sampler that learns does somewhat better than the line (Dodge et al., 2019)."
    )
    study, hours = material.study, material.hours
    scores = [figures.best_of(trial) for trial in ranked(study)]
    if len(scores) < 2:
        return Section(key="worth", title="What the search was worth", how=how, parts=[ALIKE])
    curve = {"expected best": (scores, hours)}
    charts = []
    for by_hours, against in ((False, "trials"), (True, hours.unit)):
        plot = _confirmed(figures.expected(curve, by_hours=by_hours), material)
        charts.append(Chart(plot=plot, label=f"Expected best score against {against}"))
    return Section(
        key="worth",
        title="What the search was worth",
        how=how,
        parts=[Note(text=_worth(material, scores)), Group(parts=charts)],
    )


def _confirmed(plot: go.Figure, material: Material) -> go.Figure:
    """With the confirmed means as lines: what a score of the search is really worth."""
    for role, each in material.roles.items():
        end = max(max(trace.x) for trace in plot.data)
        mean = 100 * each.wf1
        plot.add_scatter(
            x=[0, end],
            y=[mean, mean],
            mode="lines",
            name=f"{role}, confirmed mean",
            line={"dash": "dot", "width": 2, "color": figures.GREEN if role == "winner" else figures.ORANGE},
            hovertemplate=f"{role}, confirmed mean: {mean:.2f} %<extra></extra>",
        )
    return plot


def _worth(material: Material, scores: list[float]) -> str:
    mean, _, _ = expected_best(scores)
    half = len(scores) // 2
    return (
        f"The search took {format_hours(material.hours.search, material.hours.unit)} for "
        f"{len(material.hours.trials)} trials, the confirmation {format_hours(material.hours.confirmation, material.hours.unit)}. A search of {half} such trials "
        f"comes to {mean[half - 1]:.2f} % on average, one of {len(scores)} to {mean[-1]:.2f} %: the second half was worth "
        f"{mean[-1] - mean[half - 1]:.2f} points."
    )
