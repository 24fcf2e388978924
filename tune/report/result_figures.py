"""Figures of the confirmation and the test: finalists by run, F1 by class, W-F1 by dialogue length, fusion weights.

Scores are percent; the winner is blue, the baseline orange. Diamonds are means, bars their 95 % intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lfvd.config import MODALITY_NAMES
from tune.report.search_figures import BLUE, GREEN, GREY, ORANGE, PINK, SCORE, SKY, best_of, empty_figure, plain
from tune.search.confirmation import Confirmed
from tune.statistics import mean_interval
from tune.study.predictions import Predictions
from tune.study.study import BASELINE, Study

COLOUR = {"winner": BLUE, "baseline": ORANGE}

SIGN = {"l": "ˡ", "a": "ᵃ", "v": "ᵛ"}

MODALITY_COLOURS = {"l": SKY, "a": GREEN, "v": PINK}


def name_of(trial: int, winner: int) -> str:
    """`trial 12 (winner)`."""
    roles = [role for role, number in (("winner", winner), ("baseline", BASELINE)) if trial == number]
    return f"trial {trial}" + (f" ({', '.join(roles)})" if roles else "")


def mean_text(shares: Iterable[float], overlap: float = 0.0) -> str:
    """Scores in 0..1 as `62.31 ± 0.52` percent: mean and half of its 95 % interval; one value alone; `–` without any."""
    scores = [100 * share for share in shares]
    if not scores:
        return "–"
    found = mean_interval(scores, overlap=overlap)
    return f"{found.mean:.2f}" if math.isnan(found.high) else f"{found.mean:.2f} ± {found.high - found.mean:.2f}"


def by_run(rows: Mapping[str, tuple[Study, Confirmed]], unit: str = "seed", overlap: float = 0.0) -> go.Figure:
    """Each run as a point, the mean with its interval, and the score of the search; rows: name → config, top first.

    unit: that runs differ in, `seed` or `fold`; overlap: of folds (tune.search.stages).
    """
    figure = empty_figure(130 + 46 * len(rows), x=SCORE)
    points = [(name, *run) for name, (_, each) in rows.items() for run in zip(each.units, each.scores, strict=True)]
    figure.add_scatter(
        x=[100 * score for _, _, score in points],
        y=[name for name, _, _ in points],
        customdata=[number for _, number, _ in points],
        name=f"one {unit}",
        mode="markers",
        marker={"color": GREY, "size": 8, "opacity": 0.75},
        hovertemplate=f"%{{y}}, {unit} %{{customdata}}: %{{x:.2f}} %<extra></extra>",
    )
    groups = {name: each.scores for name, (_, each) in rows.items()}
    figure.add_trace(_means("x", list(groups.values()), list(groups), BLUE, "mean and 95 % interval", overlap))
    trials = {name: study.trials[each.trial] for name, (study, each) in rows.items()}
    searched = {name: best_of(trial) for name, trial in trials.items() if trial.intermediate_values}
    figure.add_scatter(
        x=list(searched.values()),
        y=list(searched),
        name="score in the search (one run)",
        mode="markers",
        marker={"symbol": "x-thin", "size": 9, "line": {"width": 2, "color": ORANGE}},
        hovertemplate="%{y}, in the search: %{x:.2f} %<extra></extra>",
    )
    # The interval of a finalist that was dropped after two runs may be wider than all the rest: it runs out of the frame.
    most = max(map(len, groups.values()))
    whole = [[100 * share for share in group] for group in groups.values() if len(group) == most]
    found = [mean_interval(group, overlap=overlap) for group in whole]
    ends = [end for each in found for end in (each.low, each.high) if not math.isnan(end)]
    shown = [*ends, *searched.values(), *(100 * score for _, _, score in points)]
    margin = 0.05 * (max(shown) - min(shown)) or 1.0
    figure.update_xaxes(range=[min(shown) - margin, max(shown) + margin])
    return figure.update_yaxes(categoryorder="array", categoryarray=list(rows)[::-1], range=[-0.6, len(rows) - 0.4])


def f1_by_class(
    rows: Mapping[str, Sequence[Mapping[str, float]]],
    classes: Sequence[str],
    paper: Mapping[str, float | None],
    *,
    split: str,
) -> go.Figure:
    """Mean F1 of each class.

    rows: `winner`, `baseline` → each seed's `f1/<class>` in 0..1; paper: class → percent as published for LFVD.
    """
    figure = empty_figure(120 + 46 * len(classes), x=f"F1 on {split} (%)")
    upwards = list(reversed(classes))
    for i, (name, seeds) in enumerate(rows.items()):
        places = [place + 0.18 * (len(rows) - 1) - 0.36 * i for place in range(len(classes))]
        groups = [[row[f"f1/{each}"] for row in seeds] for each in upwards]
        figure.add_trace(_means("x", groups, places, COLOUR[name], name))
    if shown := {place: paper[each] for place, each in enumerate(upwards) if paper.get(each) is not None}:
        figure.add_scatter(
            x=list(shown.values()),
            y=list(shown),
            name="LFVD as published (test)",
            mode="markers",
            marker={"symbol": "line-ns", "size": 24, "line": {"width": 2.5, "color": GREY}},
            hovertemplate="as published: %{x:.2f} %<extra></extra>",
        )
    figure.update_xaxes(rangemode="tozero", minallowed=0)  # an interval may go below
    return figure.update_yaxes(_names_axis(upwards))


def wf1_by_dialogue_length(found: Mapping[str, Predictions]) -> go.Figure | None:
    """W-F1 of the utterances of short, middle and long dialogues, in the paper's bins; found: by role."""
    if not found or not all(len(each.length_bins) for each in found.values()):
        return None
    figure, bins = empty_figure(340, x="utterances in the dialogue", y="W-F1 (%)"), list[str]()
    for i, (name, each) in enumerate(found.items()):
        rows = each.by_length()
        bins = list(rows[0])
        places = [place + 0.1 * i - 0.05 * (len(found) - 1) for place in range(len(bins))]
        figure.add_trace(_means("y", [[row[each] for row in rows] for each in bins], places, COLOUR[name], name))
    return figure.update_xaxes(_names_axis(bins))


def fusion_weights(found: Predictions | None) -> go.Figure | None:
    """Weight of each modality but the anchor by true class: mean, and where 80 % of the utterances lie."""
    if found is None:
        return None
    classes, known = [str(name) for name in found.classes], found.known
    weight, label = found.weight[:, known], found.label[known]
    free = [m for m in range(len(found.modalities)) if not np.all(weight[:, :, m] == 1)]
    present = [c for c in range(len(classes)) if (label == c).any()]
    if not free:
        return None
    figure = empty_figure(360, x="true class", y="fusion weight")
    for i, m in enumerate(free):
        letter = str(found.modalities[m])
        name, colour = MODALITY_NAMES[letter], MODALITY_COLOURS[letter]
        groups = [weight[:, label == c, m].ravel() for c in present]
        low, high = (np.array([np.quantile(group, q) for group in groups]) for q in (0.1, 0.9))
        mean = np.array([group.mean() for group in groups])
        figure.add_scatter(
            x=[place + 0.2 * i - 0.1 * (len(free) - 1) for place in range(len(present))],
            y=mean,
            error_y={"type": "data", "array": high - mean, "arrayminus": mean - low, "color": colour, "width": 4},
            customdata=np.stack([low, high], -1),
            name=f"{name} (w{SIGN[letter]})",
            mode="markers",
            showlegend=True,
            marker={"color": colour, "symbol": "diamond", "size": 9},
            hovertemplate=f"{name}: %{{y:.3f}} (80 % within %{{customdata[0]:.3f}} to %{{customdata[1]:.3f}})<extra></extra>",
        )
    return figure.update_xaxes(_names_axis([classes[c] for c in present]))


def _means(
    axis: str, groups: Sequence[Sequence[float]], places: Sequence[Any], colour: str, name: str, overlap: float = 0.0
) -> go.Scatter:
    """Mean and 95 % interval of each group of shares along an axis, at places on the other one."""
    found = [mean_interval([100 * share for share in group], overlap=overlap) for group in groups]
    reach = [0.0 if math.isnan(each.high) else each.high - each.mean for each in found]  # one seed has no interval
    return go.Scatter(
        {
            axis: [each.mean for each in found],
            "y" if axis == "x" else "x": places,
            f"error_{axis}": {"type": "data", "array": reach, "color": colour, "thickness": 2},
        },
        text=[f"{mean_text(group, overlap)} %" for group in groups],
        mode="markers",
        name=name,
        marker={"color": colour, "symbol": "diamond", "size": 9},
        hovertemplate=f"{name}: %{{text}}<extra></extra>",
        showlegend=True,
    )


def _names_axis(names: Sequence[str]) -> dict[str, Any]:
    """Names at whole places of an axis, so that several points of a place stand side by side."""
    places = {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": [plain(name) for name in names]}
    return {**places, "range": [-0.5, len(names) - 0.5], "zeroline": False}
