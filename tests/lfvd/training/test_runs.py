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
from tests.helpers.run_folders import comparable, contents, csv_rows


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


def test_what_stands_in_the_folder(trained):
    out, _ = trained
    seed = ["checkpoint.pt", "epochs.jsonl", "model.safetensors", "predictions.csv"]
    expected = ["config.yaml", "confusion_valid.png", "curves.png", "result.json"]
    assert list(contents(out)) == expected + [f"seed{k}/{name}" for k in (0, 1) for name in seed]
    for figure in out.glob("*.png"):
        assert figure.read_bytes().startswith(b"\x89PNG")


def test_config_is_what_ran(trained, tiny_config, tiny_corpus):
    out, _ = trained
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
    history = train(tiny_config, tiny_corpus, 0).history
    assert [{**r, "seconds": 0} for r in read_epochs(out / "seed0" / "epochs.jsonl")] == [
        {**r, "seconds": 0} for r in history
    ]
    found = csv_rows(out / "seed0" / "predictions.csv")
    classes = tiny_corpus.info.classes
    assert list(found[0]) == (
        ["dialogue", "position", "speaker", "label", "prediction"]
        + [f"probability/{c}" for c in classes]
        + ["weight/language", "weight/audio", "weight/visual"]
    )
    expected = [
        (tiny_corpus.info.dialogues[i], str(k), tiny_corpus.speaker[row], tiny_corpus.label[row])
        for i in tiny_corpus.indices("valid")
        for k, row in enumerate(range(*tiny_corpus.offset[i : i + 2]))
    ]
    names = ["" if label < 0 else classes[label] for *_, label in expected]
    assert [(r["dialogue"], r["position"]) for r in found] == [e[:2] for e in expected]
    assert [r["speaker"] for r in found] == [str(e[2]) for e in expected]
    assert [r["label"] for r in found] == names
    assert "" in names
    for row in found:
        probability = {c: float(row[f"probability/{c}"]) for c in classes}
        assert row["prediction"] == max(probability, key=probability.__getitem__)
        assert sum(probability.values()) == pytest.approx(1, abs=1e-5)
    right = [r["label"] == r["prediction"] for r in found if r["label"]]
    assert sum(right) / len(right) == pytest.approx(summary["seeds"]["0"]["scores"]["acc"])


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
    before = contents(out)
    with pytest.raises(InputError) as caught:
        train_seeds(tiny_config.with_values({"optim.lr": 0.5, "model.heads": 1}), tiny_corpus, [0], out)
    assert str(caught.value) == (
        f"{out}: holds another run (`model.heads` is 2 there, 1 here; `optim.lr` is 0.01 there, 0.5 here): "
        "name another folder, or delete this one"
    )
    with pytest.raises(InputError) as caught:
        train_seeds(tiny_config, replace(tiny_corpus, fingerprint="f" * 64), [0], out)
    assert str(caught.value) == (
        f"{out}: holds another run (the data are TINY {tiny_corpus.fingerprint[:12]} there, TINY ffffffffffff here): "
        "name another folder, or delete this one"
    )
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
    texts = [
        {"dialogue": tiny_corpus.info.dialogues[i], "position": k, "sentence": f'Hm, "{i}"\nand, ü {k}'}
        for i in tiny_corpus.indices("valid")
        for k in range(np.diff(tiny_corpus.offset)[i])
    ]
    pd.DataFrame(texts).to_parquet(tmp_path / "s.parquet")
    table = predict(out, tiny_corpus, "valid", sentences=tmp_path / "s.parquet")
    write_predictions(tmp_path / "p.csv", table)
    found = csv_rows(tmp_path / "p.csv")
    assert len(table) == len(found) == len(texts)
    assert [r["sentence"] for r in found] == [t["sentence"] for t in texts]
    each = [csv_rows(out / f"seed{k}" / "predictions.csv") for k in (0, 1)]
    for row, *seeds in zip(found, *each, strict=True):
        assert row["label"] == seeds[0]["label"]
        mean = {c: sum(float(s[f"probability/{c}"]) for s in seeds) / 2 for c in tiny_corpus.info.classes}
        assert {c: float(row[f"probability/{c}"]) for c in mean} == pytest.approx(mean, abs=2e-6)
        assert row["prediction"] == max(mean, key=mean.__getitem__)
    assert "sentence" not in predict(out, tiny_corpus, "test", sentences=tmp_path / "none.parquet")


def test_predict_with_a_broken_sentence_file(trained, tiny_corpus, tmp_path):
    (tmp_path / "s.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"s\.parquet: is not a parquet of sentences \("):
        predict(trained[0], tiny_corpus, "valid", sentences=tmp_path / "s.parquet")


def test_corpus_that_does_not_fit(trained, tiny_corpus):
    out, _ = trained
    info = replace(tiny_corpus.info, classes=("calm", "sad", "glad"), name="OTHER")
    wide = replace(tiny_corpus, features={**tiny_corpus.features, "a": np.zeros((len(tiny_corpus.label), 9), "f4")})
    cases = {
        f"{out}: was trained on the classes calm, glad, sad, but the corpus OTHER has calm, sad, glad: "
        "name the data that it was trained on": replace(tiny_corpus, info=info),
        f"{out}: was trained on features language 6 wide, audio 5 wide, visual 4 wide, but the corpus TINY has "
        "language 6 wide, audio 9 wide, visual 4 wide: name data imported from the same features": wide,
    }
    before = contents(out)
    for text, corpus in cases.items():
        for call in (evaluate_run, predict):
            with pytest.raises(InputError) as caught:
                call(out, corpus, "test")
            assert str(caught.value) == text
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
