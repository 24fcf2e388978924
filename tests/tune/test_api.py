"""The Python API: a search in a notebook's event loop and in a thread, and the same results read from its folder."""

import asyncio
import logging

import pytest

from lfvd.files import InputError
from tests.helpers.plans import make_plan
from tune import open_study, run_search


def test_a_study_stays_in_the_results_folder(tiny_file, tmp_path):
    with pytest.raises(InputError, match=r"--name '\.\./x': must be a plain name"):
        run_search(make_plan(), tiny_file, "../x", tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_search_from_python(tiny_file, tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO, logger="tune")
    short = {"trials": 2, "confirm": {"folds": 0, "finalists": 1, "seeds": [0]}}
    plan = make_plan(scheduler={"kind": "none", "max_epochs": 1}, **short)

    async def cell():
        return run_search(plan, tiny_file, "nb", tmp_path)

    async def cell_with_a_thread():
        return await asyncio.to_thread(run_search, plan, tiny_file, "nb", tmp_path)

    results = [asyncio.run(cell()), asyncio.run(cell_with_a_thread()), open_study(tmp_path / "nb")]
    for result in results:
        assert result.best.run.epochs == 1
        assert result.trials["state"].tolist() == ["finished"] * 2
        assert 0 in set(result.ranking["trial"]), "the baseline is always confirmed"
        assert result.ranking["mean"].between(0, 1).all()
        assert result.statement == results[0].statement
        assert result.folder == tmp_path / "nb"
    assert any(record.getMessage().startswith("search 2/2 trials") for record in caplog.records)
    assert capsys.readouterr().out == ""


def test_a_study_that_has_not_begun(make_study):
    result = open_study(make_study().folder)
    assert (result.best, len(result.trials), len(result.ranking)) == (None, 0, 0)
    assert list(result.trials)[:4] == ["trial", "state", "value", "epochs"]
    assert result.statement == ["There is no winner yet: the confirmation is not finished."]
