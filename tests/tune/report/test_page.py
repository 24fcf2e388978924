"""The page of a report escapes all names, asks no network, and draws in a browser."""

import json
import re

import pytest

from tests.helpers import invented
from tests.helpers.browser import Reader, ink, see, see_in_frame
from tune.report.report import write_report
from tune.study.study import Study

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
    [first] = study.test_log.evaluations()
    study.test_log.log_evaluation({**first, "time": "2026-11-21T08:30:00+0000"})
    page = write_report(study)
    assert f"{folder}/test_evaluations.jsonl" in page.read_text(encoding="utf-8")
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
