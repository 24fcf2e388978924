"""The paper's Figures 2 to 4 from a grid's runs, as PNG and CSV: fusions, the confusion matrix, W-F1 by dialogue length.

Figure 2 shows scores; Figures 3 and 4 the unchanged row's predictions on test.
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
from tune.paper.rows import modality_code, part_title
from tune.paper.tables import write_csv
from tune.statistics import mean_interval
from tune.study.predictions import Predictions


def draw_figures(outcomes: Outcomes) -> list[str]:
    """Draw the figures that the grid asked for → their file names; what cannot be drawn is added to `left_out`."""
    drawn, folder = [], outcomes.grid.folder
    for part in dict.fromkeys(row.part for row in outcomes.rows if row.part.startswith("figure")):
        rows = [row for row in outcomes.rows if row.part == part]
        if part == "figure2":
            if len(rows) == 1:
                outcomes.left_out.append(f"{part_title(part)}: there is nothing to compare")
                continue
            _points(outcomes, part, "Fusions (Figure 2)", {row.name: outcomes.wf1(row) for row in rows})
        elif outcomes.split == "val":
            outcomes.left_out.append(f"{part_title(part)}: the data have no test split")
            continue
        else:
            found = Predictions.load(outcomes.grid.paths.predictions(outcomes.grid.number(rows[0]), "test"))
            if part == "figure3":
                counts, classes = found.confusion(), [str(name) for name in found.classes]
                with atomic_path(folder / "figure3.png") as path:
                    confusion(path, counts, classes=classes, title=_heading("Confusion (Figure 3)", outcomes))
                named = zip(classes, counts.tolist(), strict=True)
                write_csv(
                    folder / "figure3.csv", [{"true": n, **dict(zip(classes, row, strict=True))} for n, row in named]
                )
            else:
                each = found.by_length()
                scores = {name: [100 * seed[name] for seed in each] for name in each[0]}
                _points(outcomes, part, "W-F1 by utterances in the dialogue (Figure 4)", scores)
        drawn.append(f"{part}.png")
    return drawn


def _points(outcomes: Outcomes, part: str, heading: str, scores: Mapping[str, Sequence[float]]) -> None:
    """Each seed's W-F1 as a point, their mean and its 95 % interval; the same as CSV."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes: Axes = figure.add_subplot()
    rows: list[dict[str, str]] = []
    for at, (label, values) in enumerate(scores.items()):
        found = mean_interval(values)
        axes.plot(at + np.linspace(-0.12, 0.12, len(values)), values, "o", color="0.65", ms=5)
        axes.plot([at - 0.25, at + 0.25], [found.mean] * 2, color=COLOURS[0], lw=2.5)
        axes.plot([at, at], [found.low, found.high], color=COLOURS[0], lw=1.5)
        axes.annotate(f" {found.mean:.2f}", (at + 0.25, found.mean), va="center", fontsize=9, color=COLOURS[0])
        seeds = {f"seed {seed}": value for seed, value in zip(outcomes.seeds, values, strict=True)}
        numbers = {"mean": found.mean, "low": found.low, "high": found.high, **seeds}
        rows.append({"": label, **{name: f"{value:.4f}" for name, value in numbers.items()}})
    axes.set_xticks(range(len(scores)), list(scores))
    axes.set(xlim=(-0.5, len(scores) - 0.3), ylabel=f"{SPLITS[outcomes.split]} W-F1 (%)")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"{_heading(heading, outcomes)}\npoints: seeds; bars: their mean with its 95 % interval", fontsize=10
    )
    FigureCanvasAgg(figure)
    with atomic_path(outcomes.grid.folder / f"{part}.png") as path:
        figure.savefig(path, format="png", dpi=150)
    write_csv(outcomes.grid.folder / f"{part}.csv", rows)


def _heading(what: str, outcomes: Outcomes) -> str:
    """Data, modalities, split and seeds of a figure, and which modalities are simulated."""
    data, count = outcomes.grid.data, len(outcomes.seeds)
    present = modality_code(outcomes.grid.plan.config.data.modalities)
    text = f"{what}\n{data.name}, {present}, {SPLITS[outcomes.split]} split, {count} seed{'s' * (count > 1)}"
    return f"{text}, SIMULATED: {', '.join(data.simulated)}" if data.simulated else text
