"""Tables of our rows beside the paper's: tables.md with all tables of a grid, and a CSV of each."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lfvd.files import atomic_path, write_text
from tune.paper.grid import Grid
from tune.paper.outcomes import SPLITS, UNDECIDED, Outcomes, RowOutcome
from tune.paper.rows import ONLY, REFERENCE, modality_code, part_title


def write_tables(outcomes: Outcomes, figures: Sequence[str] = ()) -> None:
    """Write tables.md, with the figures of these file names, and table<n>.csv into the grid's folder."""
    parts = [part for part in dict.fromkeys(row.part for row in outcomes.rows) if part.startswith("table")]
    text = [_head(outcomes)]
    for part in parts:
        shown = class_rows(outcomes, part) if part in ONLY else _shown_rows(outcomes, part)
        write_csv(outcomes.grid.folder / f"{part}.csv", shown if part in ONLY else ablation_rows(outcomes, part))
        text.append(f"## {part_title(part)}\n\n{summary(outcomes, part)}\n\n{_markdown(shown)}\n")
    if figures:
        images = "\n\n".join(f"![{part_title(Path(name).stem)}]({name})" for name in figures)
        text.append(f"## Figures\n\n{_FIGURES}\n\n{images}\n")
    if outcomes.left_out:
        text.append("## Left out\n\n" + "".join(f"- {each}\n" for each in outcomes.left_out))
    write_text(outcomes.grid.folder / "tables.md", "\n".join(text))


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a table atomically; its columns are the first row's keys."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def ablation_rows(outcomes: Outcomes, part: str) -> list[dict[str, str]]:
    """All that is known of each row of Table 4, 5 or 6."""
    reference, rows = REFERENCE[part], []
    for each in outcomes.compared(part):
        change = each.change
        numbers = {
            "paper acc": each.paper["acc"],
            "paper W-F1": each.paper["wf1"],
            "val W-F1": each.mean["val/wf1"],
            "val W-F1 std": each.std["val/wf1"],
            "test acc": each.mean.get("test/acc"),
            "test acc std": each.std.get("test/acc"),
            "test W-F1": each.mean.get("test/wf1"),
            "test W-F1 std": each.std.get("test/wf1"),
            "test W-F1 - paper": each.gap,
            f"paper: W-F1 - {reference}": each.paper_change,
            f"ours: W-F1 - {reference}": change.mean if change else None,
            "low": change.low if change else None,
            "high": change.high if change else None,
            "p": change.p if change else None,
        }
        head = {"row": each.row.name, "trial": str(each.trial), "seeds": str(len(outcomes.seeds))}
        rows.append(head | {k: number(v, digits=4) for k, v in numbers.items()} | {"same sign": each.agrees})
    return rows


def _shown_rows(outcomes: Outcomes, part: str) -> list[dict[str, str]]:
    """Of an ablation what a reader compares."""
    reference = REFERENCE[part]
    return [
        {
            "row": each.row.name,
            "paper acc": number(each.paper["acc"]),
            "paper W-F1": number(each.paper["wf1"]),
            "val W-F1": spread(each, "val/wf1"),
            "test acc": spread(each, "test/acc"),
            "test W-F1": spread(each, "test/wf1"),
            "test W-F1 - paper": number(each.gap),
            f"paper: W-F1 - {reference}": number(each.paper_change),
            f"ours: W-F1 - {reference} (95 %)": change_text(each),
            "same sign": each.agrees,
        }
        for each in outcomes.compared(part)
    ]


def class_rows(outcomes: Outcomes, part: str) -> list[dict[str, str]]:
    """Table 2 or 3: F1 of each class, accuracy and W-F1 of the published systems and, once test was evaluated, of ours."""
    systems, classes = outcomes.paper[part], outcomes.paper["classes"]
    columns = [*classes, "acc", "W-F1"]

    def row(name: str, values: Iterable[float | None]) -> dict[str, str]:
        return {"row": name, **dict(zip(columns, map(number, values), strict=True))}

    rows = [
        row(f"{name} (paper)" if name == "LFVD" else name, (*each["f1"], each["acc"], each["wf1"]))
        for name, each in systems.items()
    ]
    mean, std = outcomes.percents(next(row for row in outcomes.rows if row.part == part))
    keys = [*(f"test/f1/{name}" for name in classes), "test/acc", "test/wf1"]
    if keys[-1] in mean:
        paper = (*systems["LFVD"]["f1"], systems["LFVD"]["acc"], systems["LFVD"]["wf1"])
        present = modality_code(outcomes.grid.plan.config.data.modalities)
        rows.append(row(f"LFVD (ours, {present})", (mean[key] for key in keys)))
        rows.append(row("± over seeds", (std[key] for key in keys)))
        rows.append(row("ours - paper", (mean[key] - x for key, x in zip(keys, paper, strict=True))))
    return rows


def summary(outcomes: Outcomes, part: str) -> str:
    """A table in a sentence or two: ours beside the paper's LFVD; or how many signs agree, and how well ours are known."""
    if part in ONLY:
        mean, std = outcomes.percents(next(row for row in outcomes.rows if row.part == part))
        paper, key = outcomes.paper[part]["LFVD"], f"{outcomes.split}/wf1"
        ours = f"{SPLITS[outcomes.split]} W-F1 {number(mean[key])} ± {number(std[key])}"
        return f"{part_title(part)}: {ours}; LFVD in the paper {number(paper['wf1'])}."
    compared = [each for each in outcomes.compared(part) if each.agrees]
    if not compared:
        return f"{part_title(part)}: nothing to compare."
    count = Counter(each.agrees for each in compared)
    widths = sorted(each.change.high - each.change.mean for each in compared if each.change)
    sizes = sorted(abs(each.paper_change) for each in compared if each.paper_change)
    return (
        f"{part_title(part)}: {count['yes']} of {len(compared)} changes have the paper's sign, {count['no']} the opposite one, "
        f"{count[UNDECIDED]} cannot be told from no change. Ours are known to ± {number(widths[0])} to "
        f"± {number(widths[-1])} points; the paper's are {number(sizes[0])} to {number(sizes[-1])} in size."
    )


def number(value: float | None, *, digits: int = 2) -> str:
    """`53.10`, without a sign for zero; empty for what is not known."""
    text = "" if value is None else f"{value:.{digits}f}"
    return text if text.strip("-0.") else text.removeprefix("-")


def spread(each: RowOutcome, key: str) -> str:
    """`53.10 ± 0.42`: mean and standard deviation of a metric."""
    return f"{number(each.mean[key])} ± {number(each.std[key])}" if key in each.mean else ""


def change_text(each: RowOutcome) -> str:
    """`-1.20 (-2.10, -0.30)`."""
    found = each.change
    return f"{number(found.mean)} ({number(found.low)}, {number(found.high)})" if found else ""


def _markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A table in Markdown; a dash for what is not known."""
    lines = [list(rows[0]), ["---", *["---:"] * (len(rows[0]) - 1)], *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(cell or '–' for cell in line)} |" for line in lines)


def _head(outcomes: Outcomes) -> str:
    """Data, config, seeds, and how to read the tables."""
    grid, config = outcomes.grid, outcomes.grid.plan.config
    present, simulated = modality_code(config.data.modalities), ", ".join(grid.data.simulated).upper()
    facts = f"""- Data: {grid.data.name}, modalities {present}, fingerprint {grid.data.fingerprint[:12]}
- Config: `{grid.plan.base}`, {config.run.epochs} epochs; plan.yaml holds all its values
- Seeds: {", ".join(map(str, outcomes.seeds))}; ours are means ± sample standard deviation over them, percent
- Commit: {grid.info.get("commit", "none")}"""
    text = [f"# The paper's tables on {grid.data.name}"]
    text += [f"**SIMULATED: {simulated}.** {_SIMULATED}"] if simulated else []
    text += [facts, _HOW.format(split=SPLITS[outcomes.split], evaluations=_evaluations(grid))]
    text += [] if present == "T+A+V" else [_PARTLY.format(present=present)]
    return "\n\n".join(text) + "\n"


def _evaluations(grid: Grid) -> str:
    count = len(grid.test_log.evaluations())
    if count < 2:
        return "test is opened once, when all rows are trained"
    return f"test was opened {count} times, whenever rows had been added, and nothing was chosen by it"


_SIMULATED = """These modalities are stand-ins drawn from the true labels. Rows that use them show that the code runs, and which of
its parts matter to such data; they say nothing about the real corpus."""

_HOW = """Ours: the epoch is chosen on validation; {evaluations}. The published numbers are the
paper's own; they come from other features, and most public code of this field chooses the epoch by test score, which alone makes
numbers higher. "ours: W-F1 - …" is the change of {split} W-F1 against the table's unchanged row, paired over seeds, with the
95 % t interval of each by itself: it covers other seeds, not other test dialogues. "same sign" is told only where it leaves zero
out, as it would by chance for one in twenty rows that change nothing."""

_FIGURES = """Ours alone: no numbers of the paper's figures are known here. Figure 2 is of the alternatives to the variational fusion,
Figure 4 by dialogue length in the paper's bins; in the place of Figure 3 stands the confusion matrix."""

_PARTLY = """The data have {present} alone: "ours" is the model on {present}, while the paper's Tables 2, 3, 5 and 6 are on T+A+V."""
