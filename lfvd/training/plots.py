"""Figures of a run: confusion matrix and learning curves. Matplotlib by its objects: no global state, no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart by colour-blind eyes too."""


def confusion(path: str | Path, counts: np.ndarray, *, classes: Sequence[str], title: str) -> None:
    """Draw counts [c, c] of (true, predicted): colour is the share of the true class, text share and count."""
    size = 2.6 + 0.95 * len(classes)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.add_subplot()
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(share):
        colour = "white" if value > 0.68 else "black"
        text = f"{100 * value:.0f} %\n{counts[i, j]}" if counts[i, j] else "·"
        axes.text(j, i, text, ha="center", va="center", color=colour, weight="bold" if i == j else "normal")
    axes.set_xticks(range(len(classes)), classes, rotation=35, ha="right", rotation_mode="anchor")
    support = counts.sum(1)
    axes.set_yticks(range(len(classes)), [f"{name}\n({n})" for name, n in zip(classes, support, strict=True)])
    axes.set(xlabel="predicted", ylabel="true (predictions)")
    axes.set_title(title.replace("; ", "\n"), fontsize=11)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    bar.ax.yaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f} %")
    _save(figure, path)


def curves(
    path: str | Path,
    histories: Mapping[int, Sequence[Mapping[str, Any]]],
    *,
    best: Mapping[int, int],
    title: str,
) -> None:
    """Draw cross-entropy of train and validation, and validation W-F1, by epoch: one colour a seed, its best epoch marked.

    histories: seed → epoch records of lfvd.training.trainer; best: seed → epoch.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    losses, score = figure.subplots(1, 2)
    for i, (seed, history) in enumerate(histories.items()):
        colour = COLOURS[i % len(COLOURS)]
        epoch = [r["epoch"] for r in history]
        mark = "." if len(epoch) == 1 else ""  # a line of one point is invisible
        losses.plot(
            epoch, [r["train/loss_classification"] for r in history], color=colour, ls="--", lw=1.3, marker=mark
        )
        losses.plot(epoch, [r["val/loss"] for r in history], color=colour, lw=1.5, marker=mark)
        wf1 = [100 * r["val/wf1"] for r in history]
        score.plot(epoch, wf1, color=colour, lw=1.5, marker=mark, label=f"seed {seed}")
        at = best[seed]
        score.plot(at, wf1[at - 1], "o", color=colour, mec="white", ms=9, zorder=3)
    _label(losses, "cross-entropy")
    styles = [
        Line2D([], [], color="0.2", ls="--", label="train (with dropout)"),
        Line2D([], [], color="0.2", label="validation"),
    ]
    losses.legend(handles=styles, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _label(score, "validation W-F1 (%)")
    dot = Line2D([], [], color="0.2", marker="o", mec="white", ms=9, ls="", label="best epoch")
    handles, _ = score.get_legend_handles_labels()
    # Beside the axes: the lines can be anywhere inside.
    columns = 1 + len(handles) // 16
    score.legend(handles=[*handles, dot], frameon=False, ncols=columns, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _label(axes: Axes, quantity: str) -> None:
    axes.set(xlabel="epoch", ylabel=quantity)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: str | Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=150)
