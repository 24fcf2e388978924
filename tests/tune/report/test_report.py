"""The report: that it says what the study's files say, escapes what it is told, asks no network, and draws in a browser."""

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import invented
from tests.helpers.browser import ink, see, see_in_frame
from tune.analysis.conclusions import draw_conclusions
from tune.analysis.summary import summarize
from tune.published import published
from tune.report.page import Chart, Page, render
from tune.report.report import report_of, write_report
from tune.report.report_data import gather
from tune.report.result_figures import with_interval
from tune.search.confirmation import ranking
from tune.search.trials import ranked
from tune.statistics import mean_interval
from tune.study.study import Study


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Study:
    """A whole study with its report. Not to be changed."""
    study = invented.whole(tmp_path_factory.mktemp("report") / "demo")
    study.append_fault("Worker lost: node-3 <is gone>", "continued from epoch 4", stage="search", trial=9, seed=77)
    study.append_fault("node-3 came back", "went on", stage="confirm", trial=9, seed=4)
    write_report(study)
    return study


class Reader(HTMLParser):
    """A page's text, tables, anchors and whatever it would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.rows, self.fetched, self.ids, self.links, self.open = [], [], [], [], [], []
        self.feed(page)

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

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.text).split())


def read(study: Study) -> Reader:
    return Reader((study.folder / "report.html").read_text(encoding="utf-8"))


def test_the_statement_comes_first(whole):
    """Word for word as tune.analysis.conclusions has it, before any figure."""
    page = read(whole)
    statement = draw_conclusions(whole, summarize(whole))
    said = page.said.replace("`", "")
    for text in (*statement.sentences, *statement.warnings):
        assert (text[0].upper() + text[1:]).replace("`", "") in re.sub(r"(?<=\w) (?=[,:])", "", said), text
    assert page.said.index(statement.sentences[0]) < page.said.index("Beside the paper")
    assert "Simulated: audio and visual are drawn from the true labels" in page.said


def test_summary(whole):
    """Winner, baseline and paper: means and t intervals over the seeds, from confirm.jsonl and the ledger."""
    winner = ranking(whole)[0].trial
    lines = [json.loads(line) for line in (whole.folder / "confirm.jsonl").read_text().splitlines()]
    look = whole.looks()[0]
    rows = {row[0]: row[1:] for row in read(whole).rows if row}
    for name, trial in ((f"trial {winner} (winner)", winner), ("trial 0 (baseline)", 0)):
        valid = [line["val/wf1"] for line in lines if line["trial"] == trial]
        test = [row["test/wf1"] for row in look["scores"][str(trial)]]
        cells = [mean_interval([100 * v for v in values]) for values in (valid, test)]
        assert rows[name] == [f"{c.mean:.2f} ± {c.high - c.mean:.2f}" for c in cells]
    assert rows["LFVD as published"] == [
        "80.02",
        "58.61",
        "19.63",
        "43.73",
        "64.45",
        "27.71",
        "58.24",
        "68.32",
        "67.03",
    ]
    assert with_interval([50.0]) == "50.00"


def test_beside_the_paper(whole):
    """All of Table 3 as published, and below it ours on test, class by class in one order."""
    rows = [row for row in read(whole).rows if row]
    head = next(i for i, row in enumerate(rows) if row[1:3] == ["neutral", "surprise"])
    assert rows[head][1:] == [*invented.CLASSES, "accuracy", "W-F1"]
    table = published()["meld"]["table3"]
    for row, (system, figures) in zip(rows[head + 1 :], table.items(), strict=False):
        assert row[0] == ("LFVD as published" if system == "LFVD" else system)
        cells = [*figures["f1"], figures["acc"], figures["wf1"]]
        assert row[1:] == ["–" if cell is None else f"{cell:.2f}" for cell in cells]
    ours = {row[0]: row[1:] for row in rows[head + 1 + len(table) :][:2]}
    look = whole.looks()[0]
    for name, trial in (("ours: winner", ranking(whole)[0].trial), ("ours: baseline", 0)):
        keys = [*(f"test/f1/{c}" for c in invented.CLASSES), "test/acc", "test/wf1"]
        means = [100 * np.mean([row[key] for row in look["scores"][str(trial)]]) for key in keys]
        assert ours[name] == [f"{mean:.2f}" for mean in means]
    assert "Ours are on simulated data" in read(whole).said


def test_real_data_beside_the_paper(tmp_path):
    study = invented.whole(tmp_path / "real", data={"name": "MELD", "simulated": ()})
    text = texts(report_of(study))
    assert "nine of twelve public code bases of this field choose the epoch by test score" in text
    assert "Simulated" not in text


def test_confusion(whole):
    """The winner's predictions of all seeds, in percent of the true class."""
    winner = ranking(whole)[0].trial
    with np.load(whole.predictions(winner, "test")) as file:
        label, prediction = file["label"], file["prediction"]
    rows = [row for row in read(whole).rows if row and row[0] == "joy" and len(row) == 8]
    chosen = prediction[:, label == invented.CLASSES.index("joy")].ravel()
    shares = [100 * np.mean(chosen == c) for c in range(7)]
    assert rows[1][1:] == [f"{share:.0f}" for share in shares], "validation first, then test"


def test_faults_and_provenance(whole):
    rows = [row for row in read(whole).rows if row]
    faults = [row[1:] for row in rows if len(row) == 4 and re.match(r"20\d\d-", row[0])]
    assert faults[-2:] == [
        ["trial 9", "Worker lost: node-3 <is gone>", "continued from epoch 4"],
        ["trial 9, seed 4", "node-3 came back", "went on"],
    ]
    facts = {row[0]: row[1] for row in rows if len(row) == 2}
    assert facts["fingerprint of the data"] == "5e" * 32
    assert facts["looks at the test split"] == "1: 2026-11-20 08:30 by ada on node1"
    assert facts["commit"] == "0123456789ab"
    said = read(whole).said
    assert "lfvd train" in said
    assert "--seeds 0,1,2,3,4" in said
    assert "scheduler:" in said, "plan.yaml is there"


def test_contents_lead_somewhere(whole):
    page = read(whole)
    assert len(page.links) == 13
    assert [link.removeprefix("#") for link in page.links] == [i for i in page.ids if f"#{i}" in page.links]
    assert len(set(page.ids)) == len(page.ids)


def test_nothing_is_fetched(whole):
    """No address in the page's own elements, and a policy that forbids what its script might ask for."""
    text = (whole.folder / "report.html").read_text(encoding="utf-8")
    assert Reader(text).fetched == ["data:,"], "only the icon, which is empty"
    assert "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:" in text
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert text.count("* plotly.js v") == 1


def test_only_the_report_is_written(whole, tmp_path):
    """The same study gives the same page, and no other file changes: above all, no look at test is added."""

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}

    before = files()
    assert write_report(Study.open(whole.folder)) == whole.folder / "report.html"
    assert files() == before


def texts(page: Page) -> str:
    return unescape(re.sub(r"<script.*?</script>|<[^>]*>", " ", render(page), flags=re.S))


def test_no_trial_yet(tmp_path):
    text = texts(report_of(invented.begin(tmp_path / "new", data={"simulated": ()})))
    assert "Nothing is known yet: no trial has begun." in text
    assert "Simulated" not in text


def test_unfinished_search(tmp_path):
    study = invented.begin(tmp_path / "young")
    invented.search(study, epochs=90)
    page = report_of(study)
    assert page.answer == ("There is no winner yet: the confirmation is not finished.",)
    assert [section.key for section in page.sections][:2] == ["history", "curves"]
    text = texts(page)
    assert "nan" not in text.lower().split()
    assert "lfvd train" not in text, "there is no best.yaml"
    assert "it is still sealed" in text
    assert "diamond" not in text, "there is no winner to be one"
    write_report(study)


@pytest.mark.parametrize("runs", [5, 7])
def test_no_winner_while_the_race_goes_on(tmp_path, runs):
    """Not even the baseline, which is through with its seeds before the others are."""
    study = invented.begin(tmp_path / "racing")
    invented.search(study)
    invented.confirm(study, runs=runs)
    assert report_of(study).answer == ("There is no winner yet: the confirmation is not finished.",)
    invented.confirm(study)
    assert report_of(study).answer[0].startswith(("The tuned config beats", "No difference"))


def test_confirmed_but_test_is_sealed(tmp_path):
    """Predictions of test that the ledger does not name stay unseen."""
    study = invented.begin(tmp_path / "sealed")
    invented.search(study)
    invented.confirm(study)
    winner = ranking(study)[0].trial
    for split in ("valid", "test"):
        invented.predictions(study, winner, split).save(study.predictions(winner, split))
    text = texts(report_of(study))
    assert "The test split of this study is still sealed" in text
    assert "The winner on validation (%)" in text
    assert "The winner on test (%)" not in text
    assert "holds no predictions" not in text
    study.predictions(winner, "valid").unlink()
    assert "holds no predictions" in texts(report_of(study))


def test_drops_are_told_only_where_there_are_some(whole, tmp_path):
    assert "was dropped after fewer seeds" in read(whole).said
    plain = invented.whole(tmp_path / "plain", confirm={**invented.PLAN["confirm"], "race": False})
    assert "was dropped after fewer seeds" not in texts(report_of(plain))


def test_worth(whole):
    """What half as many trials, and as many, come to on average: by drawing from the search's own scores."""
    scores = np.array([100 * max(t.intermediate_values.values()) for t in ranked(whole)])
    n, rng = len(scores), np.random.default_rng(0)
    found = re.search(
        r"A search of (\d+) such trials comes to ([\d.]+) % on average, one of (\d+) to ([\d.]+) %", read(whole).said
    )
    assert (int(found[1]), int(found[3])) == (n // 2, n)
    for count, mean in ((n // 2, found[2]), (n, found[4])):
        best = rng.choice(scores, (20_000, count)).max(1)
        assert float(mean) == pytest.approx(best.mean(), abs=0.005 + 4 * best.std() / np.sqrt(len(best)))


def test_the_baseline_wins(tmp_path):
    """Then there is one config to show, under both names."""
    study = invented.begin(tmp_path / "base", trials=1, confirm={"finalists": 1, "seeds": [0, 1]})
    invented.search(study, by_hand=None)
    invented.confirm(study)
    invented.predict(study)
    page = report_of(study)
    assert list(gather(study).roles) == ["winner"]
    assert "trial 0 (winner, baseline)" in texts(page)
    assert "it takes two trials with different scores" in texts(page)
    assert "nan" not in texts(page).lower().split()


def test_other_data_than_the_papers(tmp_path):
    study = invented.begin(tmp_path / "own", data={"name": "PHONE CALLS", "simulated": ()})
    invented.search(study)
    invented.confirm(study)
    assert "The paper has no table for these data (PHONE CALLS)." in texts(report_of(study))


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
    study.append_fault("<script>alert(1)</script>", "'\"&", trial=3)
    write_report(study)
    return study


def test_names_are_escaped(hostile):
    """Every name is text, nothing that a study says becomes markup, and data end no script."""
    text = (hostile.folder / "report.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert text.count("<script>") == 2
    assert text.count("</script>") == 2 + text.count('<script type="application/json">')
    assert not re.search(r"<(b|i|img)\b", re.sub(r"<script.*?</script>", "", text, flags=re.S))
    assert "<script>alert(1)</script>" in page.said
    assert [row[0] for row in page.rows if row and row[0] in HOSTILE][:7] == list(HOSTILE)
    for block in re.findall(r'<script type="application/json">(.*?)</script>', text, re.S):
        assert not set("<>&") & set(block)
        assert {"data", "layout"} <= json.loads(block).keys()


def test_chart_data_survive(whole):
    import plotly.graph_objects as go

    chart = Chart(plot=go.Figure(data=[go.Bar(x=["</script>&"], y=[1.5])]), label="bars")
    found = json.loads(str(chart.json))
    assert (found["data"][0]["x"], found["data"][0]["y"]) == (["</script>&"], [1.5])
    assert "template" not in found["layout"], "the page brings its own, for light and dark"


@pytest.mark.slow
def test_thousand_trials(tmp_path):
    """A long search has a page too, of some megabytes and in some seconds."""
    study = invented.whole(tmp_path / "long", trials=1000, sampler={"kind": "random", "seed": 0})
    path = write_report(study)
    assert path.stat().st_size < 12e6
    seen = see(path)
    assert (seen.told("drawn"), seen.told("problems"), seen.console) == (seen.told("figures"), None, [])


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser(whole, tmp_path, dark):
    """All figures are drawn, the console is silent, and the page is light or dark as the reader's system is."""
    seen = see(whole.folder / "report.html", dark=dark, size=(1280, 9000), picture=tmp_path / "page.png")
    assert seen.console == []
    assert seen.told("problems") is None
    assert int(seen.told("drawn")) == int(seen.told("figures")) == report_of(whole).figures > 12
    assert colour_at(tmp_path / "page.png") == ((20, 23, 26) if dark else (255, 255, 255))
    assert 0.02 < ink(tmp_path / "page.png") < 0.4, "an empty page, or one black with lines"


def colour_at(picture: Path) -> tuple[int, ...]:
    from matplotlib.image import imread

    return tuple(round(255 * float(v)) for v in imread(picture)[3, 3, :3])


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 390, 800])
def test_on_a_narrow_screen(whole, tmp_path, width):
    """Wide tables and figures scroll in their own boxes: the page itself never sideways."""
    told = see_in_frame(whole.folder / "report.html", tmp_path, width=width)
    assert told["drawn"] == told["figures"]
    assert told["wide"] <= width
    assert told["narrowest"] >= 150, "no figure is squeezed by its own names"
    assert not [each for each in told["cut"] if each.startswith(("answer", "emotions"))], (
        "what matters most is seen whole"
    )


@pytest.mark.slow
def test_a_long_path_on_a_narrow_screen(tmp_path):
    """The warning of a second look names a file: its path breaks, however deep it lies."""
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
    """A script that fails, a figure that cannot be drawn and a request are seen as what they are."""
    text = (whole.folder / "report.html").read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace('{"data":[', '{"data":[[', 1), encoding="utf-8")
    assert "JSON" in see(broken).told("problems")
    broken.write_text(text + "<script>console.error('told')</script>", encoding="utf-8")
    assert any("told" in line for line in see(broken).console)
    broken.write_text(text + "<img src='http://example.org/x.png'>", encoding="utf-8")
    assert any("Content Security Policy" in line for line in see(broken).console)
