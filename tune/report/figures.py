"""Figures of a search: its history, learning curves, parameters, and what more trials would have brought.

Scores are percent of W-F1 on validation. Colours are told apart by colour-blind eyes and stand on white and on black; fonts and
backgrounds are the page's (tune.report.page). A function gives None where there is too little to draw.
"""

from __future__ import annotations

import html
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState
from plotly.colors import sample_colorscale

from lfvd.training.plots import COLOURS
from tune.analysis.importance import Importance, finished_search
from tune.parameter import Parameter
from tune.report.compute_time import Hours
from tune.search.asha import Rungs
from tune.search.trials import BY_HAND, STOPPED, ranked
from tune.statistics import expected_best
from tune.study.study import BASELINE, OBJECTIVE, Study

BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = COLOURS[:6]
GREY = "#808890"
"""For what stands behind."""

SCORE = "validation W-F1 (%)"

MOST_LINES = 200
"""Trials, the best ones, that are drawn in parallel coordinates: more cannot be told apart."""

RUNG_COLOURS = ["#EDB95E", ORANGE, "#9C4A7E"]
"""From the first rung to the last."""

SCORE_COLOURS = ["#9AA3AA", SKY, BLUE]
"""From the worst score, or the first trial, to the best or the last."""


def base(height: int, *, x: str = "", y: str = "", **layout: Any) -> go.Figure:
    """An empty figure with named axes."""
    return go.Figure(
        layout={"height": height, "xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, **layout}
    )


def plain(text: str) -> str:
    """Text for a figure, where Plotly would take `<b>` for markup."""
    return html.escape(text, quote=False)


def best_of(trial: FrozenTrial) -> float:
    """The best validation W-F1 that a trial reached, in percent."""
    return 100 * max(trial.intermediate_values.values())


def history(study: Study) -> go.Figure | None:
    """Each trial's best score and the best so far, by trial number (Optuna's plot)."""
    if not _telling(study):
        return None
    with _quiet():
        each, best, *_ = optuna.visualization.plot_optimization_history(finished_search(study)).data
    for trace, said in ((each, "trial"), (best, "best up to trial")):
        trace.update(hovertemplate=f"{said} %{{x}}: %{{y:.2f}} %<extra></extra>")
    each.update(name="best epoch of a trial", marker={"color": SKY, "size": 7})
    best.update(name="best so far", line={"color": BLUE, "width": 2, "shape": "hv"})
    figure = base(360, x="trial", y=SCORE).add_traces([best, each])
    return figure.update_xaxes(tickformat="d", nticks=max(2, min(10, len(each.x))))


def ending(trial: FrozenTrial) -> str:
    """How a trial ended: `finished`, `stopped at rung 9`, `stopped by hand`, `failed`, `unfinished`."""
    if trial.state == TrialState.FAIL:
        return "failed"
    if trial.state == TrialState.PRUNED:
        reason = trial.user_attrs.get(STOPPED, "")
        return "stopped by hand" if reason == BY_HAND else f"stopped at {reason.partition(':')[0]}"
    return "finished" if trial.state == TrialState.COMPLETE else "unfinished"


def _endings(rungs: Sequence[int]) -> dict[str, str]:
    """All endings in the order of the legend → colour."""
    places = [i / max(1, len(rungs) - 1) for i in range(len(rungs))]
    shades = sample_colorscale(RUNG_COLOURS, places) if rungs else []
    stopped = {f"stopped at rung {rung}": shade for rung, shade in zip(rungs, shades, strict=True)}
    return {"failed": GREY, "stopped by hand": PINK, "unfinished": GREY, **stopped, "finished": BLUE}


def learning_curves(study: Study) -> go.Figure | None:
    """The best score so far of every trial by epoch, coloured by how it ended; the rungs as dotted lines."""
    curves: dict[int, tuple[list[float], list[float]]] = {}
    for record in study.tail("epochs.jsonl").new():
        if record["stage"] == "search":
            x, y = curves.setdefault(record["trial"], ([], []))
            x.append(record["epoch"])
            y.append(100 * record[OBJECTIVE])
    if not curves:
        return None
    rungs = sorted(Rungs(study.plan.scheduler).values)
    ends = {trial.number: ending(trial) for trial in study.trials}
    figure = base(440, x="epoch", y="best validation W-F1 so far (%)")
    for name, colour in _endings(rungs).items():
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
    """Optuna's PED-ANOVA of each searched key, and the level that chance alone reaches."""
    if not found:
        return None
    keys = [each.key for each in reversed(found)]  # the greatest on top
    figure = base(90 + 34 * len(keys), x="share of the importance (%)")
    bars = [100 * each.share for each in reversed(found)]
    colours = [BLUE if each.shown else GREY for each in reversed(found)]
    hover = "%{y}: %{x:.0f} %<extra></extra>"
    figure.add_bar(
        x=bars, y=keys, orientation="h", marker={"color": colours}, width=0.55, showlegend=False, hovertemplate=hover
    )
    figure.add_scatter(
        x=[100 * each.chance for each in reversed(found)],
        y=keys,
        mode="markers",
        name="chance stays below, 19 times of 20",
        showlegend=True,
        marker={"symbol": "line-ns", "size": 22, "line": {"width": 3, "color": ORANGE}},
        hovertemplate="%{y}: chance stays below %{x:.0f} %<extra></extra>",
    )
    return figure.update_xaxes(rangemode="tozero")


def slices(study: Study, keys: Sequence[str], marks: Mapping[str, int]) -> dict[str, go.Figure]:
    """The score against each key's values (Optuna's plots); marks: name → trial that stands out, such as the winner."""
    if not _telling(study):
        return {}
    search, chosen = finished_search(study), {t.number: t for t in ranked(study)}
    figures = {}
    for key in keys:
        with _quiet():
            drawn = optuna.visualization.plot_slice(search, params=[key], target=_score, target_name=SCORE)
        figure = base(300, x=key, y=SCORE, showlegend=False)
        figure.update_xaxes(_axis(study.plan.space[key]))
        labels = {repr(choice): str(choice) for choice in study.plan.space[key].choices}  # Optuna shows quotes
        points = drawn.data[0].update(
            x=[labels.get(x, x) for x in drawn.data[0].x],
            name="",
            hovertemplate=f"{key} %{{x}}: %{{y:.2f}} %<extra></extra>",
        )
        points.marker.update(colorscale=SCORE_COLOURS, showscale=False, line={"width": 0}, size=7)
        figure.add_trace(points)
        for name, number in marks.items():
            if number in chosen:
                value = chosen[number].params[key]
                figure.add_trace(_mark(str(value) if study.plan.space[key].choices else value, chosen[number], name))
        figures[key] = figure
    return figures


def _axis(parameter: Parameter) -> dict[str, Any]:
    """The whole range that was searched, also where no trial was."""
    if parameter.choices:
        return {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [str(each) for each in parameter.choices],
        }
    if not parameter.log:
        edge = 0.03 * (parameter.high - parameter.low)
        return {"range": [parameter.low - edge, parameter.high + edge]}
    low, high = math.log10(parameter.low), math.log10(parameter.high)
    edge = 0.03 * (high - low)
    steps = (1,) if high - low > 2 else (1, 2, 5)
    ticks = [float(f"{step}e{power}") for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return {
        "type": "log",
        "range": [low - edge, high + edge],
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _mark(x: Any, trial: FrozenTrial, name: str) -> go.Scatter:
    symbol = "diamond-open" if trial.number == BASELINE else "diamond"
    marker = {"color": ORANGE, "symbol": symbol, "size": 11, "line": {"width": 2, "color": ORANGE}}
    hover = f"{name}, %{{x}}: %{{y:.2f}} %<extra></extra>"
    return go.Scatter(x=[x], y=[best_of(trial)], mode="markers", marker=marker, hovertemplate=hover)


def parallel(study: Study) -> go.Figure | None:
    """All searched values and the score of each trial as a line (Optuna's plot)."""
    if not _telling(study):
        return None
    search = finished_search(study)
    trials = sorted(search.get_trials(deepcopy=False, states=[TrialState.COMPLETE]), key=_score, reverse=True)[
        :MOST_LINES
    ]
    best = optuna.create_study(direction="maximize")
    best.add_trials(trials)
    with _quiet():
        drawn = optuna.visualization.plot_parallel_coordinate(best, target=_score, target_name="W-F1 (%)")
    lines = sorted((t for t in drawn.data if t.mode == "lines"), key=lambda trace: float(trace.y[0]))  # the best on top
    places = [float(trace.y[0]) for trace in lines]
    for trace, place, shade in zip(lines, places, sample_colorscale(SCORE_COLOURS, places), strict=True):
        trace.update(opacity=0.3 + 0.6 * place, line={"color": shade})
    figure = base(420, showlegend=False, margin={"t": 30, "r": 40})
    figure.add_traces(lines)
    layout = drawn.layout.to_plotly_json()
    names = [name.replace(".", ".<br>") for name in layout["xaxis"]["ticktext"]]
    figure.update_layout({key: layout[key] for key in ("yaxis", "shapes")}, annotations=_apart(layout["annotations"]))
    return figure.update_xaxes(layout["xaxis"] | {"ticktext": names, "tickangle": 0, "title": {"text": ""}})


def _apart(texts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the texts that would stand on another one of the same axis."""
    shown: list[dict[str, Any]] = []
    for text in sorted(texts, key=lambda each: each["y"] not in (0, 1)):  # the ends first
        if all(text["x"] != other["x"] or abs(text["y"] - other["y"]) > 0.05 for other in shown):
            shown.append({**text, "font": {"size": 10}})  # in the page's colour
    return shown


def expected(studies: Mapping[str, tuple[Sequence[float], Hours]], *, by_hours: bool) -> go.Figure:
    """Expected best score of so many trials like a study's, with a band of a standard deviation (Dodge et al. 2019).

    studies: name → percent of each trial, what all cost. By hours, k trials cost k times the mean.
    """
    units = {hours.unit for _, hours in studies.values()}
    unit = units.pop() if len(units) == 1 else "hours of a GPU or of a core"
    figure = base(380, x=f"{unit} of search" if by_hours else "trials", y=f"expected best {SCORE}")
    for i, (name, (scores, hours)) in enumerate(studies.items()):
        mean, low, high = expected_best(scores)
        x = np.arange(1, len(mean) + 1) * (hours.search / len(mean) if by_hours else 1)
        colour = COLOURS[i % 6]
        figure.add_traces(_band(x, low, high, colour))
        hover = f"{name} %{{x:.2f}} {unit}: %{{y:.2f}} %" if by_hours else f"{name} %{{x}} trials: %{{y:.2f}} %"
        line = {"color": colour, "width": 2}
        figure.add_scatter(
            x=x, y=mean, name=name, mode="lines", line=line, showlegend=True, hovertemplate=f"{hover}<extra></extra>"
        )
    return figure.update_xaxes(rangemode="tozero").update_layout(legend={"traceorder": "normal"})


def _band(x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> list[go.Scatter]:
    none = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    fill = f"rgba({red}, {green}, {blue}, 0.18)"
    return [go.Scatter(x=x, y=low, **none), go.Scatter(x=x, y=high, fill="tonexty", fillcolor=fill, **none)]


def _score(trial: FrozenTrial) -> float:
    return float(trial.value or 0.0)


def _telling(study: Study) -> bool:
    """Whether there are two different scores: Optuna's plots need them."""
    return len({best_of(trial) for trial in ranked(study)}) > 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings, such as that a plot is experimental: they are for its developers, not for a reader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
