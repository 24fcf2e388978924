"""Studies side by side: who is ahead by how much, what cannot be compared, what differs; and the two commands that write pages."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.helpers import invented
from tests.helpers.browser import Reader, ink, see, see_in_frame
from tune.cli import main
from tune.report import compare
from tune.report.compare import comparison_html, warnings_of, write_comparison
from tune.report.report_data import ReportData, gather
from tune.search.confirmation import ranking
from tune.study.plan_file import StudyError
from tune.study.study import Study

WIDER = {
    "sampler": {"kind": "random", "seed": 3},
    "space": {**invented.PLAN["space"], "optim.lr": {"low": 1e-6, "high": 1e-1, "log": True}},
    "trials": 30,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory, whole) -> Path:
    """Two studies on the same data, and one that has just begun. Not to be changed."""
    folder = tmp_path_factory.mktemp("compare")
    shutil.copytree(whole.folder, folder / "narrow")
    invented.whole(folder / "wider", **WIDER)
    invented.search(invented.begin(folder / "young"), epochs=60)
    return folder


def opened(results: Path, *names: str) -> list[Study]:
    return [Study.open(results / name) for name in names]


@pytest.fixture(scope="module")
def found(results) -> dict[str, ReportData]:
    """What the pages are made of."""
    return {name: gather(Study.open(results / name)) for name in ("narrow", "wider", "young")}


def read(*found: ReportData) -> Reader:
    return Reader(comparison_html(found))


def test_answer(found):
    """The winners' means over the same seeds, by scipy's paired test, allowing for the choice among the leader's finalists."""
    both = [found["narrow"], found["wider"]]
    a, b = (np.array(ranking(each.study)[0].scores) for each in both)
    assert a.mean() > b.mean(), "else the page names the other one first"
    test = stats.ttest_rel(a, b)
    among = len(both[0].summary.order) - 1
    assert among > 1
    interval = test.confidence_interval(1 - 0.05 / among)
    by = f"{100 * (a - b).mean():.2f} ± {100 * (interval.high - (a - b).mean()):.2f} W-F1 points on validation"
    assert test.pvalue > 0.05, "else the sentence is the other one"
    [said] = compare._answer(both)
    assert said.startswith(
        f"No difference could be shown between the winners of narrow and wider: narrow is ahead by {by}"
    )
    assert f"p = {min(1, among * test.pvalue):.2f}" in said
    assert compare._answer(both[::-1]) == [said], "the order does not matter"


def shifted(material: ReportData, name: str, by: float) -> ReportData:
    """The same study under another name, its winner worse by so much on average."""
    winner = material.roles["winner"]
    scores = tuple(score - by - 0.0003 * (seed % 2) for seed, score in zip(winner.units, winner.scores, strict=True))
    worse = dataclasses.replace(winner, scores=scores, mean={"val/wf1": float(np.mean(scores))})
    study = Study.open(material.study.folder)
    study.folder = material.study.folder.with_name(name)
    return dataclasses.replace(material, study=study, roles={**material.roles, "winner": worse})


def test_a_clear_winner(found):
    """Against two others, p and interval allow for the choice among them, and among the finalists."""
    best = found["narrow"]
    half = stats.t.isf(0.05 / 4 / (len(best.summary.order) - 1), 4) * np.std([0, 0.03, 0, 0.03, 0], ddof=1) / np.sqrt(5)
    first, second = compare._answer([shifted(best, "low", 0.05), best, shifted(best, "lower", 0.07)])
    assert first.startswith(
        f"The winner of narrow beats that of low by 5.01 ± {half:.2f} W-F1 points on validation (5 seeds"
    )
    assert second.startswith("The winner of narrow beats that of lower by 7.01 ± ")


def test_summary_and_differences(found):
    rows = {row[0]: row[1:] for row in read(found["narrow"], found["wider"]).rows}
    for name in ("narrow", "wider"):
        study = found[name].study
        scores = 100 * np.array(ranking(study)[0].scores)
        assert rows[name][0].startswith(f"{scores.mean():.2f} ± ")
        assert rows[name][3] == str(len(study.trials))
    differing = {key: row for key, row in rows.items() if len(row) == 2}
    assert differing == {
        "": ["narrow", "wider"],
        "optim.lr": ["1e-05 to 0.01 (log)", "1e-06 to 0.1 (log)"],
        "trials": ["40", "30"],
        "sampler.kind": ["tpe", "random"],
        "sampler.startup_trials": ["8", "10"],
        "sampler.seed": ["1", "3"],
    }


def test_a_key_searched_in_one_alone(found, tmp_path):
    space = {k: v for k, v in invented.PLAN["space"].items() if k != "model.heads"}
    other = invented.begin(tmp_path / "other", space=space, set={"model.heads": 8})
    invented.search(other, epochs=50)
    assert ["model.heads", "1, 2, 4, 8", "8"] in read(found["narrow"], gather(other)).rows


def test_not_confirmed_yet(found):
    text = read(found["narrow"], found["young"]).words
    assert "Not confirmed yet: young. There are no two confirmed winners to compare." in text


def test_other_data(found, tmp_path):
    """Their scores stand side by side, but nobody is called better."""
    study = invented.begin(tmp_path / "iemocap", data={"name": "IEMOCAP", "simulated": (), "fingerprint": "ab" * 32})
    invented.search(study)
    invented.confirm(study)
    studies = [found["narrow"].study, study]
    [warning] = warnings_of(studies)
    assert warning == (
        "The studies are of different data, so their scores cannot be compared: narrow: MELD (simulated) (5e5e5e5e5e5e), "
        "iemocap: IEMOCAP (abababababab)."
    )
    text = read(found["narrow"], gather(study)).words
    assert warning in text
    assert "Which search found the better winner cannot be said: see the warning above." in text
    assert warnings_of([found["narrow"].study, found["wider"].study]) == []


def test_hours_of_two_kinds(found, tmp_path):
    """A GPU's and a core's are not put on one axis without a word."""
    study = invented.begin(tmp_path / "gpu", resources={"gpu": 0.5})
    invented.search(study, epochs=60)
    assert "their hours do not cost the same" in read(found["narrow"], gather(study)).words
    assert "their hours" not in read(found["narrow"], found["wider"]).words


@pytest.mark.parametrize("names", [["narrow"], ["narrow", "narrow"]])
def test_two_are_needed(results, names, tmp_path):
    with pytest.raises(StudyError, match=r"takes two studies or more, each once: name them"):
        write_comparison(opened(results, *names), tmp_path / "page.html")


def test_without_a_trial(results, tmp_path):
    empty = invented.begin(tmp_path / "empty")
    with pytest.raises(StudyError, match=r"empty: has no trial to compare: start it with `lfvd-tune search`"):
        write_comparison([*opened(results, "narrow"), empty], tmp_path / "page.html")


def run(capsys, *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_commands(results, capsys, tmp_path):
    code, out, err = run(capsys, "report", "narrow", "--results", str(results))
    assert (code, out, err) == (0, f"{results / 'narrow' / 'report.html'}\n", "")
    code, out, err = run(capsys, "compare", "narrow", "wider", "--results", str(results))
    assert (code, out) == (0, f"{results / 'compare-narrow-wider.html'}\n")
    said = "the test split of these data was evaluated 2 times, by narrow, wider: its scores have begun to steer"
    assert err.startswith(f"warning: {said}")
    assert err.count("warning") == 1
    text = Path(out.strip()).read_text(encoding="utf-8")
    assert "<h1>narrow and wider</h1>" in text
    assert said[4:].partition(":")[0] in Reader(text).words
    page = tmp_path / "pages" / "mine.html"
    code, out, _ = run(capsys, "compare", "wider", "young", "--out", str(page), "--results", str(results))
    assert (code, out) == (0, f"{page}\n")
    code, out, err = run(capsys, "compare", "narrow", "--results", str(results))
    assert (code, out) == (2, "")
    assert err.startswith("lfvd-tune: compare: narrow: takes two studies or more")
    code, _, err = run(capsys, "report", "nowhere", "--results", str(results))
    assert code == 2
    assert "there is no such study" in err


def test_the_command_warns_of_other_data(results, capsys):
    folder = results / "elsewhere"
    invented.search(invented.begin(folder, data={"fingerprint": "cd" * 32}), epochs=60)
    code, _, err = run(capsys, "compare", "narrow", "elsewhere", "--results", str(results))
    assert code == 0
    assert err.startswith("warning: The studies are of different data")


@pytest.mark.slow
def test_a_report_starts_no_ray_and_no_mlflow(results):
    """They would take seconds, and a page needs neither."""
    code = (
        "import sys; from pathlib import Path; from tune.report.report import write_report; from tune.study.study import Study\n"
        f"write_report(Study.open(Path({str(results / 'narrow')!r})))\n"
        "assert not {'ray', 'mlflow', 'IPython', 'kaleido'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser(results, tmp_path, dark):
    (tmp_path / "wider_than_any_phone_is").symlink_to(results / "wider")
    studies = [*opened(results, "narrow", "young"), *opened(tmp_path, "wider_than_any_phone_is")]
    path = write_comparison(studies, tmp_path / "page.html")
    seen = see(path, dark=dark, size=(1280, 3000), picture=tmp_path / "page.png")
    assert 0.02 < ink(tmp_path / "page.png") < 0.4, "an empty page, or one black with lines"
    assert (seen.told("drawn"), seen.told("problems"), seen.console) == ("3", None, [])
    told = see_in_frame(path, tmp_path, width=360)
    assert told["wide"] <= 360
    assert told["narrowest"] >= 150, "long names leave room for the points"
