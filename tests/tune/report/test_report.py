"""The report: it says what the study's files say, escapes all names, asks no network, and draws in a browser."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import invented
from tests.helpers.browser import ink, see, see_in_frame
from tune.analysis.conclusions import draw_conclusions
from tune.analysis.summary import summarize
from tune.published import published
from tune.report.report import report_html, write_report
from tune.search.confirmation import ranking
from tune.search.trials import ranked
from tune.statistics import mean_interval
from tune.study.study import Study


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Study:
    """A whole study with its report. Not to be changed."""
    study = invented.whole(tmp_path_factory.mktemp("report") / "demo")
    study.log_fault("Worker lost: node-3 <is gone>", "continued from epoch 4", stage="search", trial=9, seed=77)
    study.log_fault("node-3 came back", "went on", stage="confirm", trial=9, seed=4)
    write_report(study)
    return study


@pytest.fixture(scope="module")
def page(whole) -> "Reader":
    return Reader((whole.folder / "report.html").read_text(encoding="utf-8"))


class Reader(HTMLParser):
    """A page's text, tables, anchors, and whatever it would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.rows, self.fetched, self.ids, self.links, self.open = [], [], [], [], [], []
        self.feed(page)
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        for name, value in attrs:
            if name in ("src", "srcset", "data", "action") or (name == "href" and tag != "a"):
                self.fetched.append(value)
            if name == "id":
                self.ids.append(value)
            if tag == "a" and name == "href":
                self.links.append(value)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data


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


def test_contents_lead_somewhere(page):
    assert len(page.links) == 13
    assert [link.removeprefix("#") for link in page.links] == [i for i in page.ids if f"#{i}" in page.links]
    assert len(set(page.ids)) == len(page.ids)


def test_nothing_is_fetched(whole):
    """No address in the page's own elements, and a policy that forbids what its script might ask for."""
    text = (whole.folder / "report.html").read_text(encoding="utf-8")
    assert Reader(text).fetched == ["data:,"], "only the icon, which is empty"
    assert "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:" in text
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    assert not re.search(r"url\(|@import", style)
    assert text.count("* plotly.js v") == 1


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
    assert "it is still sealed" in page.words
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
    assert "The test split of this study is still sealed" in text
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
    study = invented.begin(tmp_path / "base", trials=1, confirm={"finalists": 1, "seeds": [0, 1]})
    invented.search(study, by_hand=None)
    invented.confirm(study)
    invented.predict(study)
    text = words(study)
    assert "trial 0 (winner, baseline)" in text
    assert "ours: baseline" not in text
    assert "it takes two trials with different scores" in text
    assert "nan" not in text.lower().split()


HOSTILE = (
    "</script><script>document.title='broken'</script>",
    '"><b>bold',
    "l'été & <i>",
    "`x`",
    "%{x}",
    "sad",
    "<!--",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Study:
    """A study whose names try to break out of the page."""
    folder = tmp_path_factory.mktemp("report") / "<b>study"
    study = invented.whole(
        folder, classes=HOSTILE, data={"name": "<img src=http://example.org/x.png onerror=alert(1)>"}
    )
    study.log_fault("<script>alert(1)</script>", "'\"&", trial=3)
    write_report(study)
    return study


def test_names_are_escaped(hostile):
    """Every name is text, nothing that a study says becomes markup, and data end no script."""
    text = (hostile.folder / "report.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert text.count("<script>") == 2
    assert text.count("</script>") == 2 + text.count('<script type="application/json">')
    assert not re.search(r"<(b|i|img)\b", re.sub(r"<script.*?</script>", "", text, flags=re.S))
    assert "<script>alert(1)</script>" in page.words
    assert [row[0] for row in page.rows if row and row[0] in HOSTILE][:7] == list(HOSTILE)
    for block in re.findall(r'<script type="application/json">(.*?)</script>', text, re.S):
        assert not set("<>&") & set(block)
        assert {"data", "layout"} <= json.loads(block).keys()


def test_of_many_faults_the_last_are_shown(tmp_path):
    study = invented.begin(tmp_path / "faulty")
    invented.search(study, epochs=3)
    for number in range(34):
        study.log_fault(f"fault {number}", "went on")
    text = words(study)
    assert "fault 3 " not in text
    assert "fault 4 " in text
    assert "The last 30 of 34; faults.jsonl has them all." in text


@pytest.mark.slow
def test_thousand_trials(tmp_path):
    """A long search has a page of some megabytes."""
    study = invented.whole(tmp_path / "long", trials=1000, sampler={"kind": "random", "seed": 0})
    path = write_report(study)
    assert path.stat().st_size < 12e6
    seen = see(path)
    assert (seen.told("drawn"), seen.told("problems"), seen.console) == (seen.told("figures"), None, [])


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser(whole, tmp_path, dark):
    """All figures are drawn, the console is silent, and the page is light or dark as the reader's system is."""
    from matplotlib.image import imread

    seen = see(whole.folder / "report.html", dark=dark, size=(1280, 9000), picture=tmp_path / "page.png")
    assert (seen.console, seen.told("problems")) == ([], None)
    assert int(seen.told("drawn")) == int(seen.told("figures")) == 16
    corner = [round(255 * float(v)) for v in imread(tmp_path / "page.png")[3, 3, :3]]
    assert corner == ([20, 23, 26] if dark else [255, 255, 255])
    assert 0.02 < ink(tmp_path / "page.png") < 0.4, "an empty page, or one black with lines"


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 800])
def test_on_a_narrow_screen(whole, tmp_path, width):
    """Wide tables and figures scroll in their own boxes: the page itself never sideways; what matters most is seen whole."""
    told = see_in_frame(whole.folder / "report.html", tmp_path, width=width)
    assert told["drawn"] == told["figures"]
    assert told["wide"] <= width
    assert told["narrowest"] >= 150, "no figure is squeezed by its own names"
    assert not [each for each in told["cut"] if each.startswith(("answer", "emotions"))]


@pytest.mark.slow
def test_a_long_path_on_a_narrow_screen(tmp_path):
    """The warning of a second evaluation on test names a file: its path breaks, however deep it lies."""
    folder = tmp_path / ("deep" * 20)
    folder.mkdir()
    study = invented.whole(folder / "twice")
    invented.predict(study)
    page = write_report(study)
    assert f"{folder}/twice/test_looks.jsonl" in page.read_text(encoding="utf-8")
    assert see_in_frame(page, tmp_path, width=360)["wide"] <= 360


@pytest.mark.slow
def test_hostile_names_in_a_browser(hostile):
    seen = see(hostile.folder / "report.html")
    assert (seen.console, seen.told("problems")) == ([], None)
    assert seen.told("drawn") == seen.told("figures")
    assert "<title>&lt;b&gt;study" in seen.dom


@pytest.mark.slow
def test_the_browser_would_tell(whole, tmp_path):
    """A figure that cannot be drawn, a message and a request are seen as what they are."""
    text = (whole.folder / "report.html").read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace('{"data":[', '{"data":[[', 1), encoding="utf-8")
    assert "JSON" in see(broken).told("problems")
    for addition, told in (
        ("<script>console.error('told')</script>", "told"),
        ("<img src='http://example.org/x.png'>", "Content Security Policy"),
    ):
        broken.write_text(text + addition, encoding="utf-8")
        assert any(told in line for line in see(broken).console)
