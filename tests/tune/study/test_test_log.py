"""Evaluations of test by the data: all studies of a results folder count, whatever became of them."""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.invented import DATA, begin
from tune.analysis.conclusions import evaluation_warnings
from tune.cli import main
from tune.study import jsonl
from tune.study.study import Study, study_lock
from tune.study.test_log import LEDGER, TestLog, evaluations_of

FINGERPRINT = DATA["fingerprint"]


def evaluate(study: Study, time: str, trials: tuple[int, ...] = (1, 0), *, ledger: bool = True, **more) -> None:
    who = {"time": time, "host": "node1", "user": "ada", "command": "lfvd-tune search", "data": study.data.fingerprint}
    study.test_log.log_evaluation({**who, "trials": list(trials), "seeds": [0, 1], **more})
    if ledger:
        study.test_log.log_in_ledger()
    study.test_log.log_scores({n: [{"test/wf1": 0.5}] * 2 for n in trials})


def said(study: Study) -> str:
    [warning] = evaluation_warnings(study)
    return warning.partition(": ")[0]


def test_a_fifth_study_says_so(tmp_path):
    """Also of a study that is gone, of one with another name by now, of one from before the ledger, and of a copy once."""
    studies = {name: begin(tmp_path / name) for name in ("gone", "named", "old", "again")}
    for number, (name, study) in enumerate(studies.items()):
        evaluate(study, f"{number}", ledger=name != "old")
        assert len(list(evaluation_warnings(study))) == (number > 0)
    shutil.rmtree(tmp_path / "gone")
    (tmp_path / "named").rename(tmp_path / "renamed")
    shutil.copytree(tmp_path / "again", tmp_path / "copy")
    other = begin(tmp_path / "other", data={"fingerprint": "cd" * 32})
    evaluate(other, "4")
    fifth = begin(tmp_path / "fifth")
    evaluate(fifth, "5")
    evaluate(fifth, "6", (2, 0))
    expected = "the test split of these data was evaluated 6 times, by gone, renamed, copy, fifth (2 times), old"
    assert said(fifth) == said(Study.open(tmp_path / "renamed")) == expected
    assert not list(evaluation_warnings(other))
    assert [line["study"] for line in jsonl.read(tmp_path / LEDGER)] == [
        *("gone", "named", "again", "other", "fifth", "fifth")
    ]


def test_a_study_from_elsewhere_counts_by_its_own_log(tmp_path):
    study = begin(tmp_path / "there" / "study")
    evaluate(study, "1")
    evaluate(study, "2", (2, 0))
    (tmp_path / "here").mkdir()
    moved = shutil.move(study.folder, tmp_path / "here" / "study")
    assert said(Study.open(Path(moved))) == "the test split of these data was evaluated 2 times, by study (2 times)"


def test_an_old_study(tmp_path):
    """Its looks count, an evaluation that was cut short and made again once."""
    folder = tmp_path / "study_v1"
    shutil.copytree(ROOT / "tests" / "fixtures" / "study_v1", folder)
    log = folder / "test_looks.jsonl"
    entry, scores = log.read_text().splitlines(keepends=True)
    assert [look["trials"] for look in evaluations_of(json.loads(entry)["data"], tmp_path)[0]] == [[1, 0]]
    own = TestLog(log, lambda *_: None)
    log.write_text(entry + entry.replace("01:20", "01:30") + entry.replace("01:20", "01:40") + scores)
    [look] = own.evaluations()
    assert look == {**json.loads(entry), **json.loads(scores)}
    log.write_text(entry + scores + entry.replace("01:20", "01:30") + scores)
    assert len(own.evaluations()) == 2, "made twice, from beginning to end"


def test_a_torn_line_is_cut_off_and_a_damaged_ledger_stops_nobody(tmp_path):
    first, second = begin(tmp_path / "first"), begin(tmp_path / "second")
    evaluate(first, "1")
    ledger = tmp_path / LEDGER
    whole = ledger.read_bytes()
    ledger.write_bytes(whole + whole[:40])
    evaluate(second, "2")
    assert ledger.read_bytes().startswith(whole)
    assert [line["study"] for line in jsonl.read(ledger)] == ["first", "second"]
    ledger.write_bytes(whole.replace(b"node1", b"node2"))
    (tmp_path / "first" / "test_looks.jsonl").write_bytes(b"[]\n")
    evaluate(second, "3", (2, 0))
    assert len(ledger.read_bytes().splitlines()) == 2, "what is there stays"
    warnings = list(evaluation_warnings(second))
    assert warnings[0].startswith("the test split of these data was evaluated 2 times, by second (2 times): ")
    assert [text.partition(": ")[0] for text in warnings[1:]] == [
        str(ledger),
        str(tmp_path / "first" / "test_looks.jsonl"),
    ]


def write_many(folder: Path) -> None:
    study = begin(folder)
    for number in range(20):
        evaluate(study, f"{number}", (number,))


def test_several_studies_write_at_once(tmp_path):
    """Each line is whole and there once."""
    names = [f"study{n}" for n in range(4)]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(tmp_path / name,)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    found = [(line["study"], line["time"]) for line in jsonl.read(tmp_path / LEDGER)]
    assert sorted(found) == sorted((name, f"{number}") for name in names for number in range(20))


def test_a_results_folder_without_write_access(tmp_path, capsys, monkeypatch):
    """Commands that read do; writing is refused with the path, before test is evaluated."""
    study = begin(tmp_path / "study")
    evaluate(study, "1", ledger=False)
    (tmp_path / LEDGER).mkdir()  # which root cannot write either
    assert len(evaluations_of(FINGERPRINT, tmp_path)[0]) == 1
    with pytest.raises(SystemExit) as end:
        main(["status", "study", "--results", str(tmp_path)])
    assert end.value.code in (0, None)
    capsys.readouterr()
    with study_lock(study.folder), pytest.raises(OSError, match="Is a directory") as refused:
        evaluate(Study.open(study.folder), "2")
    assert refused.value.filename == str(tmp_path / LEDGER)
