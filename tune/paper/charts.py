"""The paper's Figures 2 to 4 from a grid's runs, as PNG: fusions, the confusion matrix, W-F1 by dialogue length.

Matplotlib by its objects, as lfvd.training.plots. Figure 2 is drawn from scores; 3 and 4 from what the unchanged row predicts on test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lfvd.files import atomic_path
from lfvd.training.plots import COLOURS, confusion
from tune.paper.outcomes import SPLITS, Outcomes
from tune.paper.rows import Row, letters, title
from tune.paper.tables import write_csv
from tune.statistics import mean_interval
from tune.study.predictions import Predictions


def draw_figures(outcomes: Outcomes) -> list[str]:
    """Draw the figures that the grid asked for → their names; what cannot be drawn is entered among those left out."""
    drawn = []
    for part in dict.fromkeys(row.part for row in outcomes.rows if row.part.startswith("figure")):
        rows = [row for row in outcomes.rows if row.part == part]
        if part == "figure2" and len(rows) == 1:
            outcomes.left_out.append(f"{title(part)}: there is nothing to compare")
        elif part != "figure2" and outcomes.split == "val":
            outcomes.left_out.append(f"{title(part)}: the data have no test split")
        else:
            _DRAW[part](outcomes, rows)
            drawn.append(f"{part}.png")
    return drawn


def _fusions(outcomes: Outcomes, rows: Sequence[Row]) -> None:
    scores = {row.name: outcomes.wf1(row) for row in rows}
    _points(outcomes, "figure2", scores, heading=_heading("Fusions (Figure 2)", outcomes))


def _confusion(outcomes: Outcomes, rows: Sequence[Row]) -> None:
    found = _predicted(outcomes, rows)
    counts, classes = found.confusion(), [str(name) for name in found.classes]
    with atomic_path(outcomes.grid.folder / "figure3.png") as path:
        confusion(path, counts, classes=classes, title=_heading("Confusion (Figure 3)", outcomes))
    cells = [[name, *row] for name, row in zip(classes, counts.tolist(), strict=True)]
    write_csv(outcomes.grid.folder / "figure3.csv", [["true", *classes], *cells])


def _lengths(outcomes: Outcomes, rows: Sequence[Row]) -> None:
    """By the number of utterances in the dialogue, in the paper's bins."""
    found = _predicted(outcomes, rows)
    each = found.by_length()
    scores = {name: [100 * seed[name] for seed in each] for name in each[0]}
    heading = _heading("W-F1 by utterances in the dialogue (Figure 4)", outcomes)
    _points(outcomes, "figure4", scores, heading=heading)


_DRAW = {"figure2": _fusions, "figure3": _confusion, "figure4": _lengths}


def _predicted(outcomes: Outcomes, rows: Sequence[Row]) -> Predictions:
    """What the unchanged row predicts on test."""
    return Predictions.load(outcomes.grid.paths.predictions(outcomes.grid.number(rows[0]), "test"))


def _points(outcomes: Outcomes, name: str, scores: Mapping[str, Sequence[float]], *, heading: str) -> None:
    """Each seed's W-F1 as a point, their mean and its 95 % interval; the same as CSV."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes: Axes = figure.add_subplot()
    cells: list[list[object]] = [["", "mean", "low", "high", *(f"seed {seed}" for seed in outcomes.seeds)]]
    for at, (label, values) in enumerate(scores.items()):
        found = mean_interval(values)
        axes.plot(at + np.linspace(-0.12, 0.12, len(values)), values, "o", color="0.65", ms=5)
        axes.plot([at - 0.25, at + 0.25], [found.mean] * 2, color=COLOURS[0], lw=2.5)
        axes.plot([at, at], [found.low, found.high], color=COLOURS[0], lw=1.5)
        axes.annotate(f" {found.mean:.2f}", (at + 0.25, found.mean), va="center", fontsize=9, color=COLOURS[0])
        cells.append([label, *(f"{x:.4f}" for x in (found.mean, found.low, found.high, *values))])
    axes.set_xticks(range(len(scores)), list(scores))
    axes.set(xlim=(-0.5, len(scores) - 0.3), ylabel=f"{SPLITS[outcomes.split]} W-F1 (%)")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{heading}\npoints: seeds; bars: their mean with its 95 % interval", fontsize=10)
    FigureCanvasAgg(figure)
    with atomic_path(outcomes.grid.folder / f"{name}.png") as path:
        figure.savefig(path, format="png", dpi=150)
    write_csv(outcomes.grid.folder / f"{name}.csv", cells)


def _heading(what: str, outcomes: Outcomes) -> str:
    """Names the data, and what of them is simulated."""
    data, count = outcomes.grid.data, len(outcomes.seeds)
    present = letters(outcomes.grid.plan.config.data.modalities)
    on = f"{what}\n{data.name}, {present}, {SPLITS[outcomes.split]} split, {count} seed{'s' * (count > 1)}"
    return f"{on}, SIMULATED: {', '.join(data.simulated)}" if data.simulated else on
