"""The Python API as a notebook uses it: inside a running event loop, without a console."""

import asyncio
import logging

import pytest
import torch

import lfvd
from lfvd.api import evaluate, predict, train
from lfvd.files import InputWarning
from lfvd.training.metrics import canonical_metrics
from lfvd.training.runs import evaluate_run
from tests.helpers.run_folders import contents


def test_train_evaluate_and_predict_in_a_running_event_loop(tiny_config, tiny_corpus, tmp_path, caplog):
    async def cell() -> None:
        with caplog.at_level(logging.INFO, "lfvd"):
            model = lfvd.train(tiny_config, tiny_corpus, seed=1)
        assert [record.message.split("  ")[1] for record in caplog.records] == [f"epoch {k}/4" for k in (1, 2, 3, 4)]
        assert model.scores["wf1"] == model.history["val/wf1"].max() == model.history["val/wf1"][model.best_epoch]
        scores, table = lfvd.evaluate(model, tiny_corpus), lfvd.predict(model, tiny_corpus)
        assert list(scores.columns) == ["loss", "wf1", "acc", "f1/calm", "f1/glad", "f1/sad"]
        labelled = table[table["label"].notna()]
        assert scores.loc[1, "acc"] == (labelled["label"] == labelled["prediction"]).mean()

    asyncio.run(cell())


def test_a_folder_gives_the_same_as_memory(tiny_config, tiny_corpus, tmp_path):
    out = tmp_path / "run"
    here, there = train(tiny_config, tiny_corpus), train(tiny_config, tiny_corpus, out=out)
    assert all(torch.equal(value, there.state[name]) for name, value in here.state.items())
    assert here.history.drop(columns="seconds").equals(there.history.drop(columns="seconds"))
    assert predict(here, tiny_corpus).equals(predict(out, tiny_corpus))
    before = contents(out)
    scores = evaluate(out, tiny_corpus, "test")
    assert contents(out) == before, "evaluate writes nothing"
    assert evaluate(here, tiny_corpus, "test").equals(scores)
    assert scores.loc[0].to_dict() == evaluate_run(out, tiny_corpus, "test")["seeds"]["0"]["scores"]


def test_a_model_from_a_folder_of_several_seeds_is_that_of_its_seed(tiny_config, tiny_corpus, tmp_path):
    train(tiny_config, tiny_corpus, seed=0, out=tmp_path / "run")
    here, there = train(tiny_config, tiny_corpus, seed=1), train(tiny_config, tiny_corpus, seed=1, out=tmp_path / "run")
    assert list(evaluate(there, tiny_corpus).index) == [1]
    assert predict(there, tiny_corpus).equals(predict(here, tiny_corpus))


def test_names_of_the_package():
    assert all(getattr(lfvd, name).__module__.startswith("lfvd.") for name in lfvd.__all__)
    with pytest.raises(AttributeError, match="module 'lfvd' has no attribute 'tarin'"):
        lfvd.tarin  # noqa: B018


def test_metrics_of_earlier_versions_are_read_with_a_warning():
    new = {"train/loss_cross_modal": 1.0, "train/loss_supervised": 2.0, "val/wf1": 0.5}
    with pytest.warns(
        InputWarning, match="`train/loss_self` is now `train/loss_cross_modal`, `train/loss_full` is now"
    ):
        assert canonical_metrics({"train/loss_self": 1.0, "train/loss_full": 2.0, "val/wf1": 0.5}) == new
    assert canonical_metrics(new) == new


def test_a_platform_that_is_not_posix(monkeypatch, lfvd):
    monkeypatch.setattr("lfvd.cli.os.name", "nt")
    code, _, err = lfvd("--help")
    monkeypatch.undo()
    assert code == 2
    assert err.startswith("lfvd: needs Linux or macOS, but this is ")
