"""The folder of a run: what stands in it, that it does not depend on interruptions, and what refuses to be mixed with it."""

import json
import re
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

from lfvd.api import predict
from lfvd.config import Config
from lfvd.data.corpus import Corpus
from lfvd.files import InputError, read_yaml
from lfvd.training import plots, runs
from lfvd.training.predictions import write_predictions
from lfvd.training.runs import evaluate_run, load_run, read_epochs, train_seeds
from lfvd.training.trainer import train
from tests.helpers.run_folders import comparable, contents


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Drawing is most of the time here; `trained`, made before this takes effect, has real figures."""
    monkeypatch.setattr(plots, "_save", lambda _figure, path: Path(path).write_bytes(b"drawn"))


@pytest.fixture(scope="module")
def trained(tiny_file, tmp_path_factory):
    """A finished run of two seeds: its folder and what train_seeds returned."""
    from tests.helpers.plans import TINY

    out = tmp_path_factory.mktemp("trained") / "run"
    return out, train_seeds(Config().with_values(TINY), Corpus.open(tiny_file), [0, 1], out)


def test_what_stands_in_the_folder(trained, tiny_config, tiny_corpus):
    out, _ = trained
    seed = ["checkpoint.pt", "epochs.jsonl", "model.safetensors", "predictions.csv"]
    expected = ["config.yaml", "confusion_valid.png", "curves.png", "result.json"]
    assert list(contents(out)) == expected + [f"seed{k}/{name}" for k in (0, 1) for name in seed]
    for figure in out.glob("*.png"):
        assert figure.read_bytes().startswith(b"\x89PNG")
    assert Config.from_yaml(out / "config.yaml") == tiny_config
    provenance = read_yaml(out / "config.yaml")["provenance"]
    assert provenance == {"data": "TINY", "fingerprint": tiny_corpus.fingerprint, "simulated": ["audio"]}


def test_result(trained, tiny_config, tiny_corpus):
    out, summary = trained
    assert json.loads((out / "result.json").read_text(encoding="utf-8")) == summary
    assert (summary["data"], summary["split"], summary["simulated"]) == ("TINY", "valid", ["audio"])
    assert summary["fingerprint"] == summary["trained_on"]["fingerprint"] == tiny_corpus.fingerprint
    for seed in (0, 1):
        expected, found = train(tiny_config, tiny_corpus, seed), summary["seeds"][str(seed)]
        assert (found["best_epoch"], found["epochs"]) == (expected.best_epoch, 4)
        assert {f"val/{k}": v for k, v in found["scores"].items()} == {
            k: v for k, v in expected.best.items() if k.startswith("val/") and k != "val/wf1_best"
        }
        assert found["run"].keys() == {"commit", "versions", "device", "command"}
        assert set(found["by_length"]) <= {"≤2", "3-4", ">4"}
        assert np.sum(found["confusion"]) == (tiny_corpus.label[tiny_corpus.rows("valid")] >= 0).sum()
    for name, mean in summary["mean"]["scores"].items():
        values = [each["scores"][name] for each in summary["seeds"].values()]
        assert mean == pytest.approx(statistics.mean(values))
        assert summary["std"]["scores"][name] == pytest.approx(statistics.stdev(values), abs=1e-12)


def test_epochs_and_predictions(trained, tiny_config, tiny_corpus):
    out, summary = trained
    histories = read_epochs(out / "seed0" / "epochs.jsonl"), train(tiny_config, tiny_corpus, 0).history
    here, there = ([{**record, "seconds": 0} for record in history] for history in histories)
    assert here == there
    found = pd.read_csv(out / "seed0" / "predictions.csv", keep_default_na=False)
    rows, offset, classes = tiny_corpus.rows("valid"), tiny_corpus.offset, tiny_corpus.info.classes
    dialogue = np.searchsorted(offset, rows, side="right") - 1
    scores, weights = [f"probability/{c}" for c in classes], ["weight/language", "weight/audio", "weight/visual"]
    assert list(found) == ["dialogue", "position", "speaker", "label", "prediction", *scores, *weights]
    assert list(found["dialogue"]) == [tiny_corpus.info.dialogues[i] for i in dialogue]
    assert list(found["position"]) == list(rows - offset[dialogue])
    assert list(found["speaker"]) == list(tiny_corpus.speaker[rows])
    assert list(found["label"]) == [(*classes, "")[k] for k in tiny_corpus.label[rows]]
    assert "" in set(found["label"])
    assert list(found["prediction"]) == [classes[k] for k in found[scores].to_numpy().argmax(1)]
    assert list(found[scores].sum(axis=1)) == pytest.approx([1] * len(found), abs=1e-5)
    labelled = found[found["label"] != ""]
    right = (labelled["label"] == labelled["prediction"]).mean()
    assert right == pytest.approx(summary["seeds"]["0"]["scores"]["acc"])


def test_model_file(trained, tiny_config, tiny_corpus):
    out, _ = trained
    with safe_open(out / "seed1" / "model.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["lfvd-model"])
        state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    expected = train(tiny_config, tiny_corpus, 1)
    assert state.keys() == expected.state.keys()
    assert all((state[k] == v).all() for k, v in expected.state.items())
    assert header["classes"] == ["calm", "glad", "sad"]
    assert header["widths"] == {"l": 6, "a": 5, "v": 4}
    assert (header["seed"], header["result"]["best_epoch"]) == (1, expected.best_epoch)
    assert header["data"]["fingerprint"] == tiny_corpus.fingerprint
    assert Config.from_dict(header["config"]) == tiny_config


def test_same_command_again_changes_nothing(trained, tiny_config, tiny_corpus, monkeypatch):
    out, summary = trained
    (out / "seed0" / "checkpoint.pt").unlink()
    before, times = contents(out), {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    monkeypatch.setattr(runs, "train", None)
    seen = []
    again = train_seeds(tiny_config, tiny_corpus, [0, 1], out, on_epoch=lambda *a: seen.append((a[0], len(a[1]))))
    assert again == summary
    assert contents(out) == before
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == times
    assert seen == [(0, 4), (1, 4)]


class Stop(Exception):
    pass


def test_interrupted_anywhere_ends_the_same(trained, tiny_config, tiny_corpus, tmp_path):
    """Stopped at every call of `on_epoch`, one after the other, through to the end."""
    calls = []

    def stop(seed, history):
        calls.append((seed, len(history)))
        if len(history) > 0 and calls.count(calls[-1]) == 1:
            raise Stop

    out = tmp_path / "run"
    for _ in range(20):
        try:
            train_seeds(tiny_config, tiny_corpus, [0, 1], out, on_epoch=stop)
            break
        except Stop:
            pass
    assert {(seed, n) for seed in (0, 1) for n in range(5)} == set(calls)
    assert comparable(out) == comparable(trained[0])


@pytest.mark.parametrize("missing", ["write_predictions", "save_file", "_write_json", "_draw_confusion"])
def test_failure_at_the_end_of_a_seed_is_made_good(tiny_config, tiny_corpus, tmp_path, monkeypatch, missing):
    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    out, config = tmp_path / "run", tiny_config.with_values({"run.epochs": 1})
    with monkeypatch.context() as patch:
        patch.setattr(runs, missing, fail)
        with pytest.raises(OSError, match="disk full"):
            train_seeds(config, tiny_corpus, [0], out)
    assert not (out / "result.json").exists()
    (out / "seed0" / ".checkpoint.pt.x1y2z3").write_bytes(b"left by a process that was killed")
    for folder in (out, tmp_path / "undisturbed"):
        train_seeds(config, tiny_corpus, [0], folder)
    assert comparable(out) == comparable(tmp_path / "undisturbed")


def test_only_modalities_that_the_model_sees_count_as_simulated(tiny_config, tiny_corpus, tmp_path):
    config = tiny_config.with_values({"data.modalities": "l,v", "run.epochs": 1})
    assert train_seeds(config, tiny_corpus, [0], tmp_path / "run")["simulated"] == []


def test_more_seeds_extend_a_run(trained, tiny_config, tiny_corpus, tmp_path):
    out = tmp_path / "run"
    one = train_seeds(tiny_config, tiny_corpus, [1], out)
    assert one["std"]["scores"]["wf1"] is None
    two = train_seeds(tiny_config, tiny_corpus, [0], out)
    assert list(two["seeds"]) == ["0", "1"]
    assert comparable(out) == comparable(trained[0])


def test_a_folder_of_another_run_is_left_alone(trained, tiny_config, tiny_corpus):
    out, _ = trained
    before, other = contents(out), tiny_config.with_values({"optim.lr": 0.5, "model.heads": 1})
    data = f"the data are TINY {tiny_corpus.fingerprint[:12]} there, TINY ffffffffffff here"
    for config, corpus, words in (
        (other, tiny_corpus, "`model.heads` is 2 there, 1 here; `optim.lr` is 0.01 there, 0.5 here"),
        (tiny_config, replace(tiny_corpus, fingerprint="f" * 64), data),
    ):
        with pytest.raises(InputError) as caught:
            train_seeds(config, corpus, [0], out)
        assert str(caught.value) == f"{out}: holds another run ({words}): name another folder, or delete this one"
    assert contents(out) == before


def test_bad_input_makes_no_folder(tiny_config, tiny_corpus, tmp_path):
    without = replace(tiny_corpus, features={"l": tiny_corpus.features["l"]})
    with pytest.raises(InputError, match="has no audio features"):
        train_seeds(tiny_config, without, [0], tmp_path / "run")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file, but `--out` must be a folder"):
        train_seeds(tiny_config, tiny_corpus, [0], tmp_path / "file")
    assert contents(tmp_path) == {"file": b"mine"}


def test_evaluate(trained, tiny_corpus):
    out, summary = trained
    test = evaluate_run(out, tiny_corpus, "test")
    assert json.loads((out / "test.json").read_text(encoding="utf-8")) == test
    assert (out / "confusion_test.png").is_file()
    assert (test["split"], test["data"], list(test["seeds"])) == ("test", "TINY", ["0", "1"])
    valid = evaluate_run(out, tiny_corpus, "valid")
    for key in ("mean", "std"):
        assert valid[key] == summary[key]
    assert valid["mean"] != test["mean"]


def test_evaluate_needs_labels(trained, tiny_corpus):
    label = tiny_corpus.label.copy()
    label[tiny_corpus.rows("test")] = -1
    with pytest.raises(InputError) as caught:
        evaluate_run(trained[0], replace(tiny_corpus, label=label), "test")
    assert str(caught.value) == "the corpus TINY has no labelled utterance in its test split: use `lfvd predict`"


def test_predict(trained, tiny_corpus, tmp_path):
    out, _ = trained
    each = [pd.read_csv(out / f"seed{k}" / "predictions.csv", keep_default_na=False) for k in (0, 1)]
    texts = each[0][["dialogue", "position"]].assign(sentence=[f'Hm, "{i}"\nand, ü' for i in range(len(each[0]))])
    texts.sample(frac=1, random_state=0).to_parquet(tmp_path / "s.parquet")
    table = predict(out, tiny_corpus, "valid", sentences=tmp_path / "s.parquet")
    write_predictions(tmp_path / "p.csv", table)
    found = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    assert len(table) == len(found) == len(texts)
    assert list(found["sentence"]) == list(texts["sentence"])
    assert list(found["label"]) == list(each[0]["label"])
    names = [f"probability/{c}" for c in tiny_corpus.info.classes]
    mean = (each[0][names] + each[1][names]) / 2
    np.testing.assert_allclose(found[names], mean, atol=2e-6)
    assert list(found["prediction"]) == [tiny_corpus.info.classes[k] for k in mean.to_numpy().argmax(1)]
    assert "sentence" not in predict(out, tiny_corpus, "test", sentences=tmp_path / "none.parquet")


def test_predict_with_a_broken_sentence_file(trained, tiny_corpus, tmp_path):
    (tmp_path / "s.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"s\.parquet: is not a parquet of sentences \("):
        predict(trained[0], tiny_corpus, "valid", sentences=tmp_path / "s.parquet")


def test_corpus_that_does_not_fit(trained, tiny_corpus):
    out, _ = trained
    info = replace(tiny_corpus.info, classes=("calm", "sad", "glad"), name="OTHER")
    wide = replace(tiny_corpus, features={**tiny_corpus.features, "a": np.zeros((len(tiny_corpus.label), 9), "f4")})
    before = contents(out)
    for corpus, words in (
        (
            replace(tiny_corpus, info=info),
            "the classes calm, glad, sad, but the corpus OTHER has calm, sad, glad: name the data that it was trained on",
        ),
        (
            wide,
            "features language 6 wide, audio 5 wide, visual 4 wide, but the corpus TINY has language 6 wide, "
            "audio 9 wide, visual 4 wide: name data imported from the same features",
        ),
    ):
        for call in (evaluate_run, predict):
            with pytest.raises(InputError, match=f"^{re.escape(f'{out}: was trained on {words}')}$"):
                call(out, corpus, "test")
    assert contents(out) == before


def test_load_run_names_what_is_missing(trained, tiny_config, tmp_path):
    with pytest.raises(InputError) as caught:
        load_run(tmp_path / "none")
    assert str(caught.value) == f"{tmp_path / 'none'}: holds no finished run: name a folder of `lfvd train`"
    tiny_config.to_yaml(tmp_path / "begun" / "config.yaml")
    with pytest.raises(InputError, match=re.escape("begun: holds no finished run: finish it with `lfvd train`")):
        load_run(tmp_path / "begun")
    for content in (b"", b"\xff" * 40, (trained[0] / "seed0" / "model.safetensors").read_bytes()[:-9]):
        broken = tmp_path / "broken" / "seed0" / "model.safetensors"
        broken.parent.mkdir(parents=True, exist_ok=True)
        broken.write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_run(tmp_path / "broken")
        assert str(caught.value).startswith(f"{broken}: is not a readable model (")
        assert str(caught.value).endswith("): delete it, and run `lfvd train` again")
