"""Tables and figures of a grid, against its files and the published numbers."""

import dataclasses
import re
from collections import Counter

import numpy as np
import pytest

from tests.helpers.grids import SEEDS, begin, rows_of, work
from tune.paper import reproduce
from tune.paper.outcomes import UNDECIDED, Outcomes, RowOutcome
from tune.paper.rows import ROWS, PaperRow
from tune.paper.tables import number, summary
from tune.published import published
from tune.statistics import Difference, paired


def test_ablation_csv_against_the_files(whole):
    """Every figure of table5.csv again, from confirm.jsonl, the ledger and the published numbers."""
    rows = {row["row"]: row for row in rows_of(whole.folder / "table5.csv")}
    assert list(rows) == list(ROWS["table5"])
    [look] = whole.test_log.evaluations()
    test = {int(n): [100 * s["test/wf1"] for s in each] for n, each in look["scores"].items()}
    val = {n: [100 * r["val/wf1"] for r in whole.confirmed() if r["trial"] == n] for n in whole.numbers}
    paper = published()["meld"]["table5"]
    for name, row in rows.items():
        n = int(row["trial"])
        assert whole.name_of(n) in (name, "add", "w/o L_distillation")
        assert row["seeds"] == "2"
        assert [float(row["paper acc"]), float(row["paper W-F1"])] == paper[name]
        assert float(row["val W-F1"]) == pytest.approx(np.mean(val[n]), abs=1e-4)
        assert float(row["test W-F1"]) == pytest.approx(np.mean(test[n]), abs=1e-4)
        assert float(row["test W-F1 std"]) == pytest.approx(np.std(test[n], ddof=1), abs=1e-4)
        assert float(row["test W-F1 - paper"]) == pytest.approx(np.mean(test[n]) - paper[name][1], abs=1e-4)
        if name == "ours":
            assert {row[k] for k in ("paper: W-F1 - ours", "ours: W-F1 - ours", "low", "high", "p", "same sign")} == {
                ""
            }
            continue
        gaps = np.subtract(test[n], test[0])
        half = 12.7062 * gaps.std(ddof=1) / np.sqrt(2)  # t of one degree of freedom, 97.5 %
        assert float(row["paper: W-F1 - ours"]) == pytest.approx(paper[name][1] - paper["ours"][1], abs=1e-4)
        assert float(row["ours: W-F1 - ours"]) == pytest.approx(gaps.mean(), abs=1e-4)
        assert float(row["low"]) == pytest.approx(gaps.mean() - half, abs=1e-3)
        assert float(row["high"]) == pytest.approx(gaps.mean() + half, abs=1e-3)
        assert row["same sign"] in ("yes", "no", UNDECIDED)


def test_class_csv_against_the_log(whole):
    rows = {row["row"]: row for row in rows_of(whole.folder / "table3.csv")}
    unknown = dict.fromkeys(published()["meld"]["classes"], "")
    assert rows["MultiDAG"] == {"row": "MultiDAG", **unknown, "acc": "64.41", "W-F1": "64.00"}
    [look] = whole.test_log.evaluations()
    for name in ("neutral", "anger"):
        each = [100 * scores[f"test/f1/{name}"] for scores in look["scores"]["0"]]
        gap = np.mean(each) - float(rows["LFVD (paper)"][name])
        shown = [float(rows[row][name]) for row in ("LFVD (ours, T+A+V)", "± over seeds", "ours - paper")]
        assert shown == pytest.approx([np.mean(each), np.std(each, ddof=1), gap], abs=0.006)
    assert not (whole.folder / "table2.csv").exists()


def test_markdown_says_what_it_is_and_holds_the_csv(whole):
    text = (whole.folder / "tables.md").read_text()
    head = text[: text.index("## Table 3")]
    assert "# The paper's tables on MELD (simulated)" in head
    assert "**SIMULATED: LANGUAGE, AUDIO, VISUAL.**" in head
    assert "Seeds: 0, 1;" in head
    assert "most public code of this field chooses the epoch by test score" in head
    assert "- Table 2: is of IEMOCAP, the data are MELD" in text[text.index("## Left out") :]
    table = [
        line for line in text[text.index("## Table 6") : text.index("## Figures")].splitlines() if line.startswith("|")
    ]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert all(len(row) == len(cells[0]) for row in cells)
    for row, source in zip(cells[2:], rows_of(whole.folder / "table6.csv"), strict=True):
        assert row[0] == source["row"]
        assert row[5] == f"{float(source['test W-F1']):.2f} ± {float(source['test W-F1 std']):.2f}"
        assert row[-1] == (source["same sign"] or "–")


def test_summary_counts_signs_and_says_how_well_the_changes_are_known(whole):
    rows = rows_of(whole.folder / "table5.csv")[1:]
    count = Counter(row["same sign"] for row in rows)
    widths = sorted((float(row["high"]) - float(row["low"])) / 2 for row in rows)
    text = summary(Outcomes(whole), "table5")
    assert f"{count['yes']} of 8 changes have the paper's sign, {count['no']} the opposite one" in text
    assert f"{count[UNDECIDED]} cannot be told from no change" in text
    shown = re.search(r"Ours are known to ± (\d+\.\d\d) to ± (\d+\.\d\d) points", text)
    assert [float(x) for x in shown.groups()] == pytest.approx([widths[0], widths[-1]], abs=0.006)
    assert "the paper's are 0.16 to 0.81 in size." in text
    assert text in (whole.folder / "tables.md").read_text()


def test_figures(whole, corpus):
    for name in ("figure2", "figure3", "figure4"):
        assert (whole.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"({name}.png)" in (whole.folder / "tables.md").read_text()
    fusions = rows_of(whole.folder / "figure2.csv")
    assert [row[""] for row in fusions] == ["variational", "add", "concat", "gate"]
    [look] = whole.test_log.evaluations()
    assert [float(fusions[0][f"seed {s}"]) for s in SEEDS] == pytest.approx(
        [100 * scores["test/wf1"] for scores in look["scores"]["0"]], abs=1e-4
    )
    counts = np.array([[int(x) for x in list(row.values())[1:]] for row in rows_of(whole.folder / "figure3.csv")])
    labelled = corpus.label[np.repeat(corpus.split == 2, np.diff(corpus.offset))] >= 0
    assert counts.sum() == len(SEEDS) * labelled.sum()
    assert counts.trace() / counts.sum() == pytest.approx(np.mean([s["test/acc"] for s in look["scores"]["0"]]))
    length = np.diff(corpus.offset)[corpus.split == 2]
    bins = {"≤5": length <= 5, "6-13": (length > 5) & (length <= 13), ">13": length > 13}
    assert [row[""] for row in rows_of(whole.folder / "figure4.csv")] == [
        k for k, inside in bins.items() if inside.any()
    ]


def test_text_only_data(tmp_path, plan, corpus):
    text = dataclasses.replace(
        corpus,
        features={"l": corpus.features["l"]},
        info=dataclasses.replace(corpus.info, name="MELD", simulated=()),
    )
    grid = begin(tmp_path / "paper", plan, text, "table3", "table4", "table6", "figure2", "figure4")
    assert [grid.name_of(n) for n in grid.numbers] == ["ours", "w/o L_full", "w/o L_distillation", "w/o L_all"]
    work(grid, text)
    reproduce.write(grid, text)
    said = (grid.folder / "tables.md").read_text()
    assert "SIMULATED" not in said
    assert 'The data have T alone: "ours" is the model on T' in said
    assert "- Table 4, V: the data hold no visual features" in said
    assert "Table 4: nothing to compare." in said
    assert "- Figure 2: there is nothing to compare" in said
    assert [path.name for path in sorted(grid.folder.glob("*.png"))] == ["figure4.png"]
    [row] = rows_of(grid.folder / "table4.csv")
    assert (row["row"], row["trial"], row["ours: W-F1 - T+A+V"], row["same sign"]) == ("T", "0", "", "")
    assert row["paper: W-F1 - T+A+V"] == "-0.5800"
    assert any(row["row"] == "LFVD (ours, T)" for row in rows_of(grid.folder / "table3.csv"))


def test_without_a_test_split(tmp_path, plan, corpus):
    """Validation alone is compared, and said."""
    sealed = dataclasses.replace(corpus, split=np.minimum(corpus.split, 1))
    grid = begin(tmp_path / "paper", plan, sealed, "table3", "table6", "figure2", "figure3")
    work(grid, sealed)
    reproduce.write(grid, sealed)
    assert grid.test_log.evaluations() == []
    said = (grid.folder / "tables.md").read_text()
    assert "change of validation W-F1" in said
    assert "- Figure 3: the data have no test split" in said
    assert rows_of(grid.folder / "table3.csv")[-1]["row"] == "LFVD (paper)"
    row = rows_of(grid.folder / "table6.csv")[1]
    assert row["test W-F1"] == ""
    assert row["ours: W-F1 - ours"] != ""


@pytest.mark.parametrize(
    ("paper_change", "interval", "agrees"),
    [
        (-1.0, (-3.0, -0.1), "yes"),
        (-1.0, (0.1, 3.0), "no"),
        (0.4, (0.1, 3.0), "yes"),
        (-1.0, (-3.0, 0.1), UNDECIDED),
        (0.4, (0.0, 3.0), UNDECIDED),
        (None, (0.1, 3.0), ""),
        (0.0, (0.1, 3.0), ""),
        (-1.0, None, ""),
    ],
)
def test_agreement_of_signs(paper_change, interval, agrees):
    low, high = interval or (0, 0)
    change = Difference(n=5, mean=(low + high) / 2, low=low, high=high, p=0.5, exact=0.5) if interval else None
    row = PaperRow(part="table5", name="w/o DL", values={})
    numbers = {"mean": {}, "std": {}, "paper": {"acc": 50.0, "wf1": 50.0}, "paper_change": paper_change}
    assert RowOutcome(row=row, trial=1, change=change, **numbers).agrees == agrees


def test_the_change_is_paired_over_seeds(whole):
    """A row one point below on each seed, whatever the seeds make of both, is told apart; with one seed nothing is."""
    outcomes = Outcomes(whole)
    row = next(row for row in outcomes.rows if (row.part, row.name) == ("table6", "w/o L_all"))
    for number_, wf1 in ((0, [0.3, 0.5]), (whole.number(row), [0.29, 0.4899])):
        outcomes.scores[number_] = [dict.fromkeys(("val/wf1", "val/acc", "test/wf1", "test/acc"), x) for x in wf1]
    [found] = [each for each in outcomes.compared("table6") if each.row == row]
    assert vars(found.change) == pytest.approx(vars(paired([29.0, 48.99], [30.0, 50.0])), rel=1e-6)
    assert found.agrees == "yes"
    outcomes.seeds = (0,)
    assert {each.change for each in outcomes.compared("table6")} == {None}


def test_numbers():
    assert [number(x) for x in (None, -0.001, 0.0, -1.005, 53.1)] == ["", "0.00", "0.00", "-1.00", "53.10"]
