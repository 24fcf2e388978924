"""Figures of a search: Optuna's history, slices and parallel coordinates; learning curves, importances, expected best.

Scores are percent of W-F1 on validation. Fonts and backgrounds are the page's (page.js). A function returns None where there
is nothing to draw; Optuna's figures need two different scores.
"""

from __future__ import annotations

import html
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState
from plotly.colors import sample_colorscale

from lfvd.training.plots import COLOURS
from tune.analysis.importance import Importance
from tune.parameter import Parameter
from tune.report.compute_time import ComputeTime
from tune.report.report_data import ReportData
from tune.search.asha import Rungs
from tune.search.confirmation import Confirmed
from tune.search.trials import BY_HAND, STOPPED, ranked
from tune.statistics import expected_best
from tune.study.study import BASELINE, OBJECTIVE, Study

BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = COLOURS[:6]
GREY = "#808890"

SCORE = "validation W-F1 (%)"

RUNG_COLOURS = ["#EDB95E", ORANGE, "#9C4A7E"]
"""From the first rung to the last."""

SCORE_COLOURS = ["#9AA3AA", SKY, BLUE]
"""From the worst score, or the first trial, to the best or the last; Optuna's own cannot be seen on black."""


def empty_figure(height: int, *, x: str = "", y: str = "", **layout: Any) -> go.Figure:
    """A figure with named axes."""
    axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    return go.Figure(layout={"height": height, **axes, **layout})


def plain(text: str) -> str:
    """Text for a figure, where Plotly would take `<b>` for markup."""
    return html.escape(text, quote=False)


def best_of(trial: FrozenTrial) -> float:
    """The best validation W-F1 that a trial reached, in percent."""
    return 100 * max(trial.intermediate_values.values())


def ending(trial: FrozenTrial) -> str:
    """How a trial ended: `finished`, `stopped at rung 9`, `stopped by hand`, `failed` or `unfinished`."""
    if trial.state == TrialState.PRUNED:
        reason = trial.user_attrs.get(STOPPED, "")
        return "stopped by hand" if reason == BY_HAND else f"stopped at {reason.partition(':')[0]}"
    return {TrialState.FAIL: "failed", TrialState.COMPLETE: "finished"}.get(trial.state, "unfinished")


def _optuna_figure(draw: Callable[..., go.Figure], search: optuna.Study, height: int, **options: Any) -> go.Figure:
    """A figure of optuna.visualization, without its title: the page has a heading; and without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = draw(search, target_name=SCORE, **options)
    return figure.update_layout(title=None, height=height, plot_bgcolor=None)


def history(search: optuna.Study) -> go.Figure:
    """The best score of each trial, and the best so far."""
    figure = _optuna_figure(optuna.visualization.plot_optimization_history, search, 360)
    figure.update_yaxes(title=SCORE)
    return figure.update_xaxes(title="trial", tickformat="d", nticks=max(2, min(10, len(search.trials))))


def parallel(search: optuna.Study) -> go.Figure:
    """All searched values and the score of each trial as a line."""
    figure = _optuna_figure(optuna.visualization.plot_parallel_coordinate, search, 420)
    lines = [trace for trace in figure.data if trace.mode == "lines"]  # the last trace is a colour bar: no room for it
    for line in lines:
        line.line.color = sample_colorscale(SCORE_COLOURS, float(line.y[0]))[0]
    figure.data = lines
    figure.update_annotations(font={"color": GREY})
    names = [name.replace(".", ".<br>") for name in figure.layout.xaxis.ticktext]
    return figure.update_xaxes(ticktext=names, tickangle=0)


def slices(
    study: Study, search: optuna.Study, keys: Sequence[str], roles: Mapping[str, Confirmed]
) -> dict[str, go.Figure]:
    """The score against each key's values, on the whole range that was searched; winner and baseline stand out."""
    trials = {trial.number: trial for trial in search.trials}
    figures = {}
    for key in keys:
        parameter = study.plan.space[key]
        figure = _optuna_figure(optuna.visualization.plot_slice, search, 300, params=[key])
        marker = {"showscale": False, "size": 7, "colorscale": SCORE_COLOURS}
        figure.update_traces(marker=marker, hovertemplate="%{x}: %{y:.2f} %<extra></extra>")
        figure.update_xaxes(_range_axis(parameter))
        for role, each in roles.items():
            trial = trials[each.trial]
            if key in trial.params:
                value = trial.params[key]
                symbol = "diamond-open" if each.trial == BASELINE else "diamond"
                figure.add_scatter(
                    x=[repr(value) if parameter.choices else value],
                    y=[trial.value],
                    mode="markers",
                    showlegend=False,
                    marker={"color": ORANGE, "symbol": symbol, "size": 11, "line": {"width": 2, "color": ORANGE}},
                    hovertemplate=f"{role}, %{{x}}: %{{y:.2f}} %<extra></extra>",
                )
        figures[key] = figure
    return figures


def _range_axis(parameter: Parameter) -> dict[str, Any]:
    """The searched range as an axis; of choices Optuna's own, without quotes."""
    if parameter.choices:
        names = [str(choice) for choice in parameter.choices]
        return {"tickmode": "array", "tickvals": [repr(choice) for choice in parameter.choices], "ticktext": names}
    scale = math.log10 if parameter.log else float
    low, high = scale(parameter.low), scale(parameter.high)
    edge = 0.03 * (high - low)
    ticks = {"dtick": 1 if high - low > 2 else "D2", "exponentformat": "e"} if parameter.log else {}
    return {"range": [low - edge, high + edge], **ticks}


def learning_curves(study: Study) -> go.Figure | None:
    """The best score so far of every trial by epoch, coloured by how it ended; the rungs as dotted lines."""
    curves: dict[int, tuple[list[float], list[float]]] = {}
    for record in study.epochs("search"):
        x, y = curves.setdefault(record["trial"], ([], []))
        x.append(record["epoch"])
        y.append(100 * record[OBJECTIVE])
    if not curves:
        return None
    rungs = sorted(Rungs(study.plan.scheduler).values)
    ends = {trial.number: ending(trial) for trial in study.trials}
    shades = sample_colorscale(RUNG_COLOURS, np.linspace(0, 1, len(rungs))) if rungs else []
    stopped = {f"stopped at rung {rung}": shade for rung, shade in zip(rungs, shades, strict=True)}
    colours = {"failed": GREY, "stopped by hand": PINK, "unfinished": GREY, **stopped, "finished": BLUE}
    figure = empty_figure(440, x="epoch", y="best validation W-F1 so far (%)")
    for name, colour in colours.items():
        if chosen := {n: curve for n, curve in curves.items() if ends[n] == name}:
            figure.add_trace(_lines(chosen, f"{name} ({len(chosen)})", colour))
    for rung in rungs:
        figure.add_vline(x=rung, line={"color": GREY, "dash": "dot", "width": 1})
    last = study.plan.scheduler.max_epochs
    figure.update_xaxes(tickformat="d", nticks=max(2, min(10, last)))
    if rungs:
        figure.update_xaxes(type="log", tickmode="array", tickvals=sorted({1, *rungs, last}))
        figure.update_xaxes(range=[-0.05, 1.02 * math.log10(last) + 0.05])  # room for what ended at the first epoch
    return figure


def _lines(curves: Mapping[int, tuple[list[float], list[float]]], name: str, colour: str) -> go.Scatter:
    """Many curves as one trace, with gaps between them."""
    gap = [float("nan")]
    sizes = [6 if len(x) == 1 else 0 for x, _ in curves.values() for _ in [*x, *gap]]  # one epoch makes no line
    return go.Scatter(
        x=np.array([value for x, _ in curves.values() for value in [*x, *gap]]),
        y=np.array([value for _, y in curves.values() for value in [*y, *gap]], np.float32),
        customdata=np.array([n for n, (x, _) in curves.items() for _ in [*x, *gap]], np.int32),
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 1.3},
        marker={"color": colour, "size": sizes},
        opacity=0.8,
        hovertemplate="trial %{customdata}, epoch %{x}: %{y:.2f} %<extra></extra>",
    )


def importance_bars(found: Sequence[Importance]) -> go.Figure | None:
    """The importance of each searched key, and the level that chance alone reaches."""
    if not found:
        return None
    shown = list(reversed(found))  # the greatest on top
    keys = [each.key for each in shown]
    figure = empty_figure(90 + 34 * len(keys), x="explained of the scores' ranks (%)")
    figure.add_bar(
        x=[100 * each.share for each in shown],
        y=keys,
        orientation="h",
        marker={"color": [BLUE if each.shown else GREY for each in shown]},
        width=0.55,
        showlegend=False,
        hovertemplate="%{y}: %{x:.0f} %<extra></extra>",
    )
    figure.add_scatter(
        x=[100 * each.chance for each in shown],
        y=keys,
        mode="markers",
        name="chance stays below, 19 times of 20",
        showlegend=True,
        marker={"symbol": "line-ns", "size": 22, "line": {"width": 3, "color": ORANGE}},
        hovertemplate="%{y}: chance stays below %{x:.0f} %<extra></extra>",
    )
    return figure.update_xaxes(rangemode="tozero")


def worth(data: ReportData) -> dict[str, go.Figure]:
    """Expected best against trials and hours, with the confirmed means as lines; empty with less than two scores."""
    scores = [best_of(trial) for trial in ranked(data.study)]
    if len(scores) < 2:
        return {}
    curve = {"expected best": (scores, data.compute)}
    figures = {"trials": expected(curve), data.compute.unit: expected(curve, by_hours=True)}
    for figure in figures.values():
        end = max(max(trace.x) for trace in figure.data)
        for role, each in data.roles.items():
            figure.add_scatter(
                x=[0, end],
                y=[100 * each.wf1] * 2,
                mode="lines",
                name=f"{role}, confirmed mean",
                line={"dash": "dot", "width": 2, "color": GREEN if role == "winner" else ORANGE},
                hovertemplate=f"{role}, confirmed mean: %{{y:.2f}} %<extra></extra>",
            )
    return figures


def expected(studies: Mapping[str, tuple[Sequence[float], ComputeTime]], *, by_hours: bool = False) -> go.Figure:
    """Expected best score of so many trials like a study's, with a band of a standard deviation (Dodge et al. 2019).

    studies: name → percent of each trial, compute time. By hours, k trials cost k times the mean.
    """
    units = {compute.unit for _, compute in studies.values()}
    unit = units.pop() if len(units) == 1 else "hours of a GPU or of a core"
    figure = empty_figure(380, x=f"{unit} of search" if by_hours else "trials", y=f"expected best {SCORE}")
    for i, (name, (scores, compute)) in enumerate(studies.items()):
        mean, low, high = expected_best(scores)
        x = np.arange(1, len(mean) + 1) * (compute.search / len(mean) if by_hours else 1)
        colour = COLOURS[i % 6]
        none = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
        fill = f"rgba({', '.join(str(int(colour[k : k + 2], 16)) for k in (1, 3, 5))}, 0.18)"
        figure.add_scatter(x=x, y=low, **none)
        figure.add_scatter(x=x, y=high, fill="tonexty", fillcolor=fill, **none)
        hover = f"{name} %{{x:.2f}} {unit}: %{{y:.2f}} %" if by_hours else f"{name} %{{x}} trials: %{{y:.2f}} %"
        figure.add_scatter(
            x=x,
            y=mean,
            name=name,
            mode="lines",
            line={"color": colour, "width": 2},
            showlegend=True,
            hovertemplate=f"{hover}<extra></extra>",
        )
    return figure.update_xaxes(rangemode="tozero").update_layout(legend={"traceorder": "normal"})
