"""Figures of what was confirmed: finalists by seed, F1 by class, W-F1 by dialogue length, fusion weights.

Scores are percent. Where a winner stands beside a baseline, it is blue, the baseline orange.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from lfvd.config import MODALITY_NAMES
from tune.report.figures import BLUE, GREEN, GREY, ORANGE, PINK, SCORE, SKY, base, best_of, plain
from tune.search.confirmation import Confirmed
from tune.statistics import mean_interval
from tune.study.predictions import Predictions
from tune.study.study import BASELINE, Study

COLOUR = {"winner": BLUE, "baseline": ORANGE}

SIGN = {"l": "ˡ", "a": "ᵃ", "v": "ᵛ"}

MODALITY_COLOURS = {"l": SKY, "a": GREEN, "v": PINK}


def name_of(trial: int, winner: int) -> str:
    """`trial 12 (winner)`."""
    roles = [role for role, is_it in (("winner", trial == winner), ("baseline", trial == BASELINE)) if is_it]
    return f"trial {trial}" + (f" ({', '.join(roles)})" if roles else "")


def with_interval(scores: Sequence[float]) -> str:
    """`62.31 ± 0.52`: mean and half of its 95 % interval; without the half for one value."""
    found = mean_interval(scores)
    return f"{found.mean:.2f}" if np.isnan(found.high) else f"{found.mean:.2f} ± {found.high - found.mean:.2f}"


def by_seed(rows: Mapping[str, tuple[Study, Confirmed]]) -> go.Figure:
    """Each seed as a point, the mean with its 95 % interval, and the score of the search; rows: name → config, top first."""
    figure = base(130 + 46 * len(rows), x=SCORE)
    points = [(name, *run) for name, (_, each) in rows.items() for run in zip(each.seeds, each.scores, strict=True)]
    figure.add_scatter(
        x=[100 * score for _, _, score in points],
        y=[name for name, _, _ in points],
        customdata=[seed for _, seed, _ in points],
        name="one seed",
        mode="markers",
        marker={"color": GREY, "size": 8, "opacity": 0.75},
        hovertemplate="%{y}, seed %{customdata}: %{x:.2f} %<extra></extra>",
    )
    groups = [[100 * score for score in each.scores] for _, each in rows.values()]
    figure.add_trace(_across(groups, list(rows), BLUE, "mean and 95 % interval"))
    trials = {name: study.trials[each.trial] for name, (study, each) in rows.items()}
    searched = {name: best_of(trial) for name, trial in trials.items() if trial.intermediate_values}
    figure.add_scatter(
        x=list(searched.values()),
        y=list(searched),
        name="score in the search (one seed)",
        mode="markers",
        marker={"symbol": "x-thin", "size": 9, "line": {"width": 2, "color": ORANGE}},
        hovertemplate="%{y}, in the search: %{x:.2f} %<extra></extra>",
    )
    # The interval of a finalist that was dropped after two seeds may be wider than all the rest: it runs out of the frame.
    most = max(len(group) for group in groups)
    ends = [each for group in groups if len(group) == most for each in _ends(group)]
    shown = [*ends, *searched.values(), *(100 * score for _, _, score in points)]
    margin = 0.05 * (max(shown) - min(shown)) or 1.0
    figure.update_xaxes(range=[min(shown) - margin, max(shown) + margin])
    return figure.update_yaxes(categoryorder="array", categoryarray=list(rows)[::-1], range=[-0.6, len(rows) - 0.4])


def _ends(group: Sequence[float]) -> list[float]:
    """Ends of the 95 % interval, or the value itself where there is but one."""
    found = mean_interval(group)
    return [found.mean] if np.isnan(found.low) else [found.low, found.high]


def f1_by_class(
    rows: Mapping[str, Sequence[Mapping[str, float]]], classes: Sequence[str], paper: Mapping[str, float], *, split: str
) -> go.Figure:
    """Mean F1 of each class.

    rows: `winner`, `baseline` → each seed's `f1/<class>` in 0..1; paper: class → percent as published for LFVD.
    """
    figure = base(120 + 46 * len(classes), x=f"F1 on {split} (%)")
    for i, (name, seeds) in enumerate(rows.items()):
        places = [place + 0.18 * (len(rows) - 1) - 0.36 * i for place in range(len(classes))]
        groups = [[100 * row[f"f1/{each}"] for row in seeds] for each in reversed(classes)]
        figure.add_trace(_across(groups, places, COLOUR[name], name))
    if paper:
        shown = [(paper[each], place) for place, each in enumerate(reversed(classes)) if each in paper]
        figure.add_scatter(
            x=[value for value, _ in shown],
            y=[place for _, place in shown],
            name="LFVD as published (test)",
            mode="markers",
            marker={"symbol": "line-ns", "size": 24, "line": {"width": 2.5, "color": GREY}},
            hovertemplate="as published: %{x:.2f} %<extra></extra>",
        )
    figure.update_xaxes(rangemode="tozero", minallowed=0)  # an interval may go below
    return _named(figure, "y", list(reversed(classes)))


def wf1_by_dialogue_length(found: Mapping[str, Predictions]) -> go.Figure | None:
    """W-F1 of the utterances of short, middle and long dialogues (the paper's bins); found: `winner`, `baseline` → …"""
    if not all(len(each.length_bins) for each in found.values()):
        return None
    figure, ticks = base(340, x="utterances in the dialogue", y="W-F1 (%)"), list[str]()
    for i, (name, each) in enumerate(found.items()):
        rows = each.by_length()
        ticks = list(rows[0])
        places = [place + 0.1 * i - 0.05 * (len(found) - 1) for place in range(len(ticks))]
        groups = [[100 * row[length] for row in rows] for length in ticks]
        figure.add_trace(_along(groups, places, COLOUR[name], name))
    return _named(figure, "x", ticks)


def fusion_weights(found: Predictions) -> go.Figure | None:
    """Weight of each modality but the anchor by true class: mean, and where 80 % of the utterances lie."""
    known, classes = found.known, [str(name) for name in found.classes]
    weight, label = found.weight[:, known], found.label[known]
    free = [m for m in range(len(found.modalities)) if not np.all(weight[:, :, m] == 1)]
    present = [c for c in range(len(classes)) if (label == c).any()]
    if not free:
        return None
    figure = base(360, x="true class", y="fusion weight")
    for i, m in enumerate(free):
        letter = str(found.modalities[m])
        groups = [weight[:, label == c, m].ravel() for c in present]
        low, high = (np.array([np.quantile(group, q) for group in groups]) for q in (0.1, 0.9))
        mean = np.array([group.mean() for group in groups])
        colour = MODALITY_COLOURS[letter]
        figure.add_scatter(
            x=[place + 0.2 * i - 0.1 * (len(free) - 1) for place in range(len(present))],
            y=mean,
            error_y={"type": "data", "array": high - mean, "arrayminus": mean - low, "color": colour, "width": 4},
            customdata=np.stack([low, high], -1),
            name=f"{MODALITY_NAMES[letter]} (w{SIGN[letter]})",
            mode="markers",
            showlegend=True,
            marker={"color": colour, "symbol": "diamond", "size": 9},
            hovertemplate=f"{MODALITY_NAMES[letter]}: %{{y:.3f}} "
            "(80 % within %{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>",
        )
    return _named(figure, "x", [classes[c] for c in present])


def _across(groups: Sequence[Sequence[float]], places: Sequence[str | float], colour: str, name: str) -> go.Scatter:
    """Mean and 95 % interval of each group, in a row of its own."""
    means, bars, texts = _means(groups, colour)
    return go.Scatter(x=means, y=places, error_x=bars, text=texts, **_style(colour, name))


def _along(groups: Sequence[Sequence[float]], places: Sequence[float], colour: str, name: str) -> go.Scatter:
    """Mean and 95 % interval of each group, in a column of its own."""
    means, bars, texts = _means(groups, colour)
    return go.Scatter(x=places, y=means, error_y=bars, text=texts, **_style(colour, name))


def _means(groups: Sequence[Sequence[float]], colour: str) -> tuple[list[float], dict[str, object], list[str]]:
    found = [mean_interval(group) for group in groups]
    reach = [0.0 if np.isnan(each.high) else each.high - each.mean for each in found]  # one seed has no interval
    texts = [f"{with_interval(group)} %" for group in groups]
    return [each.mean for each in found], {"type": "data", "array": reach, "color": colour, "thickness": 2}, texts


def _style(colour: str, name: str) -> dict[str, object]:
    hover = f"{name}: %{{text}}<extra></extra>"
    marker = {"color": colour, "symbol": "diamond", "size": 9}
    return {"mode": "markers", "name": name, "marker": marker, "hovertemplate": hover, "showlegend": True}


def _named(figure: go.Figure, axis: str, names: Sequence[str]) -> go.Figure:
    """Names at whole places of an axis: several points of a place can then stand side by side."""
    places = {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": [plain(name) for name in names]}
    return figure.update_layout({f"{axis}axis": {**places, "range": [-0.5, len(names) - 0.5], "zeroline": False}})
