"""The report says what the study's files say, and nothing that is not known yet."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from tests.helpers import invented
from tests.helpers.browser import Reader
from tune.analysis.conclusions import draw_conclusions
from tune.analysis.summary import summarize
from tune.published import published
from tune.report.report import report_html, write_report
from tune.search.confirmation import ranking
from tune.search.trials import ranked
from tune.statistics import mean_interval
from tune.study.study import Study


def test_the_conclusions_come_first(whole, page):
    """Word for word as tune.analysis.conclusions has them, before any figure."""
    found = draw_conclusions(whole, summarize(whole))
    words = re.sub(r"(?<=\w) (?=[,:])", "", page.words)
    for text in (*found.sentences, *found.warnings):
        assert (text[0].upper() + text[1:]).replace("`", "") in words, text
    assert page.words.index(found.sentences[0]) < page.words.index("Test scores in percent")
    assert "Simulated: audio and visual are drawn from the true labels" in page.words


def test_summary(whole, page):
    """Winner and baseline: means and t intervals over the seeds, from confirm.jsonl and the log of test evaluations."""
    winner = ranking(whole)[0].trial
    lines = [json.loads(line) for line in (whole.folder / "confirm.jsonl").read_text().splitlines()]
    tests = whole.test_log.evaluations()[0]["scores"]
    rows = {row[0]: row[1:] for row in page.rows if row and row[0].startswith("trial ")}
    for name, trial in ((f"trial {winner} (winner)", winner), ("trial 0 (baseline)", 0)):
        valid = [line["val/wf1"] for line in lines if line["trial"] == trial]
        test = [row["test/wf1"] for row in tests[str(trial)]]
        cells = [mean_interval([100 * v for v in values]) for values in (valid, test)]
        assert rows[name] == [f"{c.mean:.2f} ± {c.high - c.mean:.2f}" for c in cells]


def test_beside_the_paper(whole, page):
    """All of Table 3 as published, and below it ours on test, class by class in one order."""
    rows = [row for row in page.rows if row]
    head = next(i for i, row in enumerate(rows) if row[1:3] == ["neutral", "surprise"])
    assert rows[head][1:] == [*invented.CLASSES, "accuracy", "W-F1"]
    table = published()["meld"]["table3"]
    for row, (system, figures) in zip(rows[head + 1 :], table.items(), strict=False):
        assert row[0] == ("LFVD as published" if system == "LFVD" else system)
        cells = [*figures["f1"], figures["acc"], figures["wf1"]]
        assert row[1:] == ["–" if cell is None else f"{cell:.2f}" for cell in cells]
    ours = {row[0]: row[1:] for row in rows[head + 1 + len(table) :][:2]}
    for name, trial in (("ours: winner", ranking(whole)[0].trial), ("ours: baseline", 0)):
        keys = [*(f"test/f1/{c}" for c in invented.CLASSES), "test/acc", "test/wf1"]
        means = [
            100 * np.mean([row[key] for row in whole.test_log.evaluations()[0]["scores"][str(trial)]]) for key in keys
        ]
        assert ours[name] == [f"{mean:.2f}" for mean in means]
    assert "Ours are on simulated data" in page.words


def test_confusion(whole, page):
    """The winner's predictions of all seeds, in percent of the true class; validation first, then test."""
    with np.load(whole.paths.predictions(ranking(whole)[0].trial, "test")) as file:
        label, prediction = file["label"], file["prediction"]
    rows = [row for row in page.rows if row and row[0] == "joy" and len(row) == 8]
    chosen = prediction[:, label == invented.CLASSES.index("joy")].ravel()
    assert rows[1][1:] == [f"{100 * np.mean(chosen == c):.0f}" for c in range(7)]


def test_searched_values(whole, page):
    rows = {row[0]: row[1:] for row in page.rows if len(row) == 5}
    winner = whole.params_of(ranking(whole)[0].trial)
    assert rows["optim.lr"][:3] == ["1e-05 to 0.01 (log)", "0.00025", f"{winner['optim.lr']:.3g}"]
    assert rows["model.heads"][:3] == ["1, 2, 4, 8", "4", str(winner["model.heads"])]
    found = {each.key: each for each in summarize(whole).importance}
    for key, each in found.items():
        assert rows[key][3] == (f"{100 * each.share:.0f} %" if each.shown else "within chance")


def test_worth(whole, page):
    """What half as many trials, and as many, come to on average: by drawing from the search's own scores."""
    scores = np.array([100 * max(t.intermediate_values.values()) for t in ranked(whole)])
    n, rng = len(scores), np.random.default_rng(0)
    found = re.search(
        r"search of (\d+) such trials comes to ([\d.]+) % on average, one of (\d+) to ([\d.]+) %", page.words
    )
    assert (int(found[1]), int(found[3])) == (n // 2, n)
    for count, mean in ((n // 2, found[2]), (n, found[4])):
        best = rng.choice(scores, (20_000, count)).max(1)
        assert float(mean) == pytest.approx(best.mean(), abs=0.005 + 4 * best.std() / np.sqrt(len(best)))


def test_faults_and_provenance(page):
    faults = [row[1:] for row in page.rows if len(row) == 4 and re.match(r"20\d\d-", row[0])]
    assert faults[-2:] == [
        ["trial 9", "Worker lost: node-3 <is gone>", "continued from epoch 4"],
        ["trial 9, seed 4", "node-3 came back", "went on"],
    ]
    facts = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert facts["fingerprint of the data"] == "5e" * 32
    assert facts["evaluations on test"] == "1: 2026-11-20 08:30 by ada on node1"
    assert facts["commit"] == "0123456789ab"
    assert "--seeds 0,1,2,3,4" in page.words
    assert "scheduler:" in page.words, "plan.yaml is there"


def test_only_the_report_is_written(whole):
    """The same study gives the same page, and no other file changes: above all, no evaluation on test is added."""

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}

    before = files()
    assert write_report(Study.open(whole.folder)) == whole.folder / "report.html"
    assert files() == before


def words(study: Study) -> str:
    return Reader(report_html(study)).words


def test_no_trial_yet(tmp_path):
    text = words(invented.begin(tmp_path / "new", data={"simulated": ()}))
    assert "Nothing is known yet: no trial has begun." in text
    assert "Simulated" not in text


def test_unfinished_search(tmp_path):
    study = invented.begin(tmp_path / "young")
    invented.search(study, epochs=90)
    page = Reader(report_html(study))
    assert "There is no winner yet: the confirmation is not finished." in page.words
    assert page.links[:3] == ["#answer", "#history", "#curves"]
    assert "nan" not in page.words.lower().split()
    assert "lfvd-tune resume young" in page.words
    assert "lfvd train" not in page.words, "there is no best.yaml"
    assert "it is not evaluated yet" in page.words
    assert "diamond" not in page.words, "there is no winner to be one"


@pytest.mark.parametrize("runs", [5, 7])
def test_no_winner_before_the_confirmation_is_finished(tmp_path, runs):
    """Not even the baseline, which has all its seeds before the others."""
    study = invented.begin(tmp_path / "racing")
    invented.search(study)
    invented.confirm(study, runs=runs)
    assert "There is no winner yet: the confirmation is not finished." in words(study)


def test_confirmed_on_real_data_but_test_is_sealed(tmp_path):
    """Predictions of test that the log does not name stay unseen; with the test scores comes the caveat of real data."""
    study = invented.begin(tmp_path / "sealed", data={"name": "MELD", "simulated": ()})
    invented.search(study)
    invented.confirm(study)
    winner = ranking(study)[0].trial
    for split in ("valid", "test"):
        invented.predictions(study, winner, split).save(study.paths.predictions(winner, split))
    text = words(study)
    assert "The test split of this study is not evaluated yet" in text
    assert "The winner on validation (%)" in text
    assert "The winner on test (%)" not in text
    assert "holds no predictions" not in text
    study.paths.predictions(winner, "valid").unlink()
    assert "holds no predictions" in words(study)
    invented.predict(study)
    assert "nine of twelve public code bases of this field choose the epoch by test score" in words(study)


def test_drops_are_told_only_where_there_are_some(page, tmp_path):
    assert "was dropped after fewer seeds" in page.words
    plain = invented.begin(
        tmp_path / "plain", confirm={**invented.PLAN["confirm"], "race": False}, data={"name": "CALLS"}
    )
    invented.search(plain)
    invented.confirm(plain)
    text = words(plain)
    assert "was dropped after fewer seeds" not in text
    assert "The paper has no table for these data (CALLS)." in text


def test_the_baseline_wins(tmp_path):
    """Then there is one config to show, under both names."""
    study = invented.begin(tmp_path / "base", trials=1, confirm={"folds": 0, "finalists": 1, "seeds": [0, 1]})
    invented.add_trial(study, TrialState.COMPLETE, [0.5])
    invented.add_trial(study, TrialState.COMPLETE, [0.5], **{"optim.lr": 5e-3})
    for trial, seed in itertools.product((0, 1), (0, 1)):
        *_, last = invented.records(study.config_of(trial), seed)
        run = {"trial": trial, "seed": seed, "best_epoch": 40, "epochs": 40, "seconds": 1.0}
        study.log_confirmed({**run, **{k: v - trial / 10 for k, v in last.items() if k.startswith("val/")}})
    invented.predict(study)
    text = words(study)
    assert "trial 0 (winner, baseline)" in text
    assert "ours: baseline" not in text
    assert "it takes two trials with different scores" in text
    assert "nan" not in text.lower().split()


def test_of_many_faults_the_last_are_shown(tmp_path):
    study = invented.begin(tmp_path / "faulty")
    invented.search(study, epochs=3)
    for number in range(34):
        study.log_fault(f"fault {number}", "went on")
    text = words(study)
    assert "fault 3 " not in text
    assert "fault 4 " in text
    assert "The last 30 of 34; faults.jsonl has them all." in text
