"""Our rows beside the paper's as text: tables.md with all tables of a grid, and a CSV of each."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lfvd.files import atomic_path, write_text
from tune.paper.grid import Grid
from tune.paper.outcomes import SPLITS, UNDECIDED, Line, Outcomes
from tune.paper.rows import ONLY, REFERENCE, letters, title

DASH = "–"
"""What is not known, in Markdown; a CSV leaves it empty."""

Cells = list[list[str]]
"""A table's header, then its rows."""


def write_tables(outcomes: Outcomes, figures: Sequence[str] = ()) -> None:
    """Write tables.md, with figures of these names, and table<n>.csv into the grid's folder."""
    folder = outcomes.grid.folder
    parts = [part for part in dict.fromkeys(row.part for row in outcomes.rows) if part.startswith("table")]
    for part in parts:
        cells = class_cells(outcomes, part) if part in ONLY else ablation_cells(outcomes, part)
        write_csv(folder / f"{part}.csv", cells)
    text = [_head(outcomes), *(_section(outcomes, part) for part in parts)]
    text += [_figures(figures)] if figures else []
    left = [f"- {each}\n" for each in outcomes.left_out]
    text += ["## Left out\n\n" + "".join(left)] if left else []
    write_text(folder / "tables.md", "\n".join(text))


def write_csv(path: Path, cells: Sequence[Sequence[object]]) -> None:
    """Write a table atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(cells)


def _figures(names: Sequence[str]) -> str:
    shown = "\n\n".join(f"![{title(Path(name).stem)}]({name})" for name in names)
    return f"## Figures\n\n{_OURS_ALONE}\n\n{shown}\n"


def ablation_cells(outcomes: Outcomes, part: str) -> Cells:
    """Table 4, 5 or 6 with all that is known of each row."""
    to = REFERENCE[part]
    names = [
        "paper acc",
        "paper W-F1",
        "val W-F1",
        "val W-F1 std",
        "test acc",
        "test acc std",
        "test W-F1",
        "test W-F1 std",
    ]
    names += ["test W-F1 - paper", f"paper: W-F1 - {to}", f"ours: W-F1 - {to}", "low", "high", "p"]
    cells = [["row", "trial", "seeds", *names, "same sign"]]
    for line in outcomes.lines(part):
        ours = [each.get(key) for key in ("val/wf1", "test/acc", "test/wf1") for each in (line.mean, line.std)]
        found = line.change
        change = [found.mean, found.low, found.high, found.p] if found else [None] * 4
        numbers = [line.paper["acc"], line.paper["wf1"], *ours, gap(line), line.paper_change, *change]
        head = [line.row.name, str(line.trial), str(len(outcomes.seeds))]
        cells.append([*head, *(number(x, digits=4) for x in numbers), line.agrees])
    return cells


def gap(line: Line) -> float | None:
    """Test W-F1 minus the published one."""
    return line.mean["test/wf1"] - line.paper["wf1"] if "test/wf1" in line.mean else None


def class_cells(outcomes: Outcomes, part: str) -> Cells:
    """Table 2 or 3: F1 of each class, accuracy and W-F1 of the published systems and of ours."""
    systems, classes = outcomes.paper[part], outcomes.paper["classes"]
    cells = [["row", *classes, "acc", "W-F1"]]
    for name, each in systems.items():
        shown = f"{name} (paper)" if name == "LFVD" else name
        cells.append([shown, *map(number, (*each["f1"], each["acc"], each["wf1"]))])
    mean, std = outcomes.percents(next(row for row in outcomes.rows if row.part == part))
    keys = [*(f"test/f1/{name}" for name in classes), "test/acc", "test/wf1"]
    if keys[-1] in mean:
        paper, ours = systems["LFVD"], letters(outcomes.grid.plan.config.data.modalities)
        reported = (*paper["f1"], paper["acc"], paper["wf1"])
        cells.append([f"LFVD (ours, {ours})", *(number(mean[k]) for k in keys)])
        cells.append(["± over seeds", *(number(std[k]) for k in keys)])
        cells.append(["ours - paper", *(number(mean[k] - x) for k, x in zip(keys, reported, strict=True))])
    return cells


def summary(outcomes: Outcomes, part: str) -> str:
    """A table in a sentence or two: ours beside the paper's LFVD; or how many signs agree, and how well ours are known."""
    if part in ONLY:
        [row] = [row for row in outcomes.rows if row.part == part]
        mean, std = outcomes.percents(row)
        paper, key = outcomes.paper[part]["LFVD"], f"{outcomes.split}/wf1"
        ours = f"{SPLITS[outcomes.split]} W-F1 {number(mean[key])} ± {number(std[key])}"
        return f"{title(part)}: {ours}; LFVD in the paper {number(paper['wf1'])}."
    compared = [line for line in outcomes.lines(part) if line.agrees]
    if not compared:
        return f"{title(part)}: nothing to compare."
    count = Counter(line.agrees for line in compared)
    widths = sorted(line.change.high - line.change.mean for line in compared if line.change)
    sizes = sorted(abs(line.paper_change) for line in compared if line.paper_change)
    return (
        f"{title(part)}: {count['yes']} of {len(compared)} changes have the paper's sign, {count['no']} the opposite one, "
        f"{count[UNDECIDED]} cannot be told from no change. Ours are known to ± {number(widths[0])} to "
        f"± {number(widths[-1])} points; the paper's are {number(sizes[0])} to {number(sizes[-1])} in size."
    )


def number(value: float | None, *, digits: int = 2) -> str:
    """`53.10`; empty for what is not known."""
    text = "" if value is None else f"{value:.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def spread(line: Line, key: str) -> str:
    """`53.10 ± 0.42`."""
    return f"{number(line.mean[key])} ± {number(line.std[key])}" if key in line.mean else ""


def change(line: Line) -> str:
    """`-1.20 (-2.10, -0.30)`."""
    found = line.change
    return f"{number(found.mean)} ({number(found.low)}, {number(found.high)})" if found else ""


def _section(outcomes: Outcomes, part: str) -> str:
    return f"## {title(part)}\n\n{summary(outcomes, part)}\n\n{_markdown(outcomes, part)}\n"


def _markdown(outcomes: Outcomes, part: str) -> str:
    head, *rows = class_cells(outcomes, part) if part in ONLY else _compared(outcomes, part)
    return "\n".join([_row(head), _row(["---", *["---:"] * (len(head) - 1)]), *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell or DASH for cell in cells)} |"


def _compared(outcomes: Outcomes, part: str) -> Cells:
    """Of an ablation what a reader compares."""
    to = REFERENCE[part]
    ours = ["val W-F1", "test acc", "test W-F1", "test W-F1 - paper"]
    cells = [["row", "paper acc", "paper W-F1", *ours, f"paper: W-F1 - {to}", f"ours: W-F1 - {to} (95 %)", "same sign"]]
    for line in outcomes.lines(part):
        scores = [spread(line, key) for key in ("val/wf1", "test/acc", "test/wf1")]
        paper = [number(line.paper["acc"]), number(line.paper["wf1"])]
        rest = [number(gap(line)), number(line.paper_change), change(line), line.agrees]
        cells.append([line.row.name, *paper, *scores, *rest])
    return cells


def _head(outcomes: Outcomes) -> str:
    """What a reader must know before the first figure."""
    grid, config = outcomes.grid, outcomes.grid.plan.config
    present = letters(config.data.modalities)
    facts = {
        "Data": f"{grid.data.name}, modalities {present}, fingerprint {grid.data.fingerprint[:12]}",
        "Config": f"`{grid.plan.base}`, {config.run.epochs} epochs; plan.yaml holds all its values",
        "Seeds": f"{', '.join(map(str, outcomes.seeds))}; ours are means ± sample standard deviation over them, percent",
        "Commit": grid.info.get("commit", "none"),
    }
    split = SPLITS[outcomes.split]
    simulated = ", ".join(grid.data.simulated).upper()
    said = [
        f"# The paper's tables on {grid.data.name}",
        *([f"**SIMULATED: {simulated}.** {_SIMULATED}"] * bool(simulated)),
    ]
    said += [
        "\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
        _HOW.format(split=split, looks=_looks(grid)),
    ]
    said += [] if present == "T+A+V" else [_PARTLY.format(present=present)]
    return "\n\n".join(said) + "\n"


def _looks(grid: Grid) -> str:
    count = len(grid.test_log.evaluations())
    if count < 2:
        return "test is opened once, when all rows are trained"
    return f"test was opened {count} times, whenever rows had been added, and nothing was chosen by it"


_SIMULATED = """These modalities are stand-ins drawn from the true labels. Rows that use them show that the code runs, and which of
its parts matter to such data; they say nothing about the real corpus."""

_HOW = """Ours: the epoch is chosen on validation; {looks}. The published numbers are the
paper's own; they come from other features, and most public code of this field chooses the epoch by test score, which alone makes
numbers higher. "ours: W-F1 - …" is the change of {split} W-F1 against the table's unchanged row, paired over seeds, with the
95 % t interval of each by itself: it covers other seeds, not other test dialogues. "same sign" is told only where it leaves zero
out, as it would by chance for one in twenty rows that change nothing."""

_OURS_ALONE = """Ours alone: no numbers of the paper's figures are known here. Figure 2 is of the alternatives to the variational fusion,
Figure 4 by dialogue length in the paper's bins; in the place of Figure 3 stands the confusion matrix."""

_PARTLY = """The data have {present} alone: "ours" is the model on {present}, while the paper's Tables 2, 3, 5 and 6 are on T+A+V."""
