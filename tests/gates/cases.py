"""What record.py records: runs, studies, sources to import, and drawn configs."""

import importlib.util
import pickle
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests" / "helpers"), str(ROOT / "tests")]

RENAMED = {
    "train/loss_self": "train/loss_cross_modal",
    "train/loss_full": "train/loss_supervised",
    "like_length": "bucket_by_length",
    "clip_norm": "max_grad_norm",
}
"""Metrics and keys of Config that have another name since; values under both are compared with each other."""

SMALL = ("model.width=16", "model.latent=4", "model.heads=2", "optim.batch_size=5", "run.device=cpu", "run.epochs=4")


def _set(*settings: str) -> list[str]:
    return [part for setting in (*SMALL, *settings) for part in ("--set", setting)]


RUNS = {
    "default": ("meld", [*_set("model.dag_layers=1"), "--seeds", "0,1"]),
    "ablated": (
        "meld",
        _set("model.attention=false", "model.fusion=add", "data.modalities=l,a", "optim.like_length=false"),
    ),
    "variants": (
        "iemocap",
        _set(
            *("model.fusion=gate", "model.atmosphere=false", "model.divergence=sum", "model.detach_teacher=true"),
            *("model.dag_speaker_window=2", "model.anchor=a", "loss.class_weights=balanced", "data.standardise=false"),
            *("run.patience=2", "optim.lr=0.02"),
        ),
    ),
}
"""Folder → preset and options of `lfvd train`."""

WITHOUT_FOLDS = {"folds": 0} if importlib.util.find_spec("tune.sections") else {}
"""For the confirmation over seeds; versions that know nothing else refuse the key."""

PLAN: dict[str, Any] = {
    "base": "meld",
    "set": {"model.width": 8, "model.latent": 2, "model.dag_layers": 1, "optim.batch_size": 4, "data.modalities": "l"},
    "space": {
        "optim.lr": {"low": 1e-4, "high": 3e-2, "log": True},
        "loss.gamma2": {"low": 1e-4, "high": 1e-1, "log": True},
        "model.heads": {"choices": [1, 2, 4]},
    },
    "sampler": {"kind": "tpe", "startup_trials": 4, "seed": 0},
    "scheduler": {"kind": "asha", "grace_epochs": 1, "reduction": 2, "max_epochs": 4, "audit": 0},
    "trials": 9,
    "resources": {"max_concurrent": 1},
    "confirm": {**WITHOUT_FOLDS, "finalists": 2, "seeds": [0, 1, 2], "race": False},
}
STUDIES = {
    "whole": PLAN,
    "raced": PLAN
    | {
        "sampler": {"kind": "random", "seed": 3},
        "scheduler": {"kind": "none", "max_epochs": 2},
        "trials": 4,
        "confirm": {**WITHOUT_FOLDS, "finalists": 3, "seeds": [0, 1, 2, 3], "race": True},
    },
}


def sources() -> Iterator[tuple[str, list[str]]]:
    """Name and arguments of `lfvd import`; the files are written into the working folder."""
    from layouts import DUMPS, IEMOCAP_LAYOUTS, LAYOUTS, TRUE_WIDTHS, invented, write

    for layout in LAYOUTS:
        data = invented("iemocap" if layout in IEMOCAP_LAYOUTS else "meld", widths=TRUE_WIDTHS[layout])
        files = [str(f) for f in write(layout, Path(f"files-{layout}"), data)]
        if layout == "M7":
            np.save("m7.npy", data.rows(data.text[0]))
            files += ["--language", "m7.npy"]
        yield layout, files
        if layout in ("I12", "M13"):
            for layers in ("first", "concat"):
                yield f"{layout}-{layers}", [*files, "--text-layers", layers]
        if layout == "I9":
            yield "I9-carved", [*files, "--valid-fraction", "0.4", "--carve-seed", "5"]
            yield "I9-simulated", [*files, "--visual", "simulated", "--seed", "3"]
    for dump, how in DUMPS.items():
        for lists in (False, True):
            name = f"M13-{dump}-{'lists' if lists else 'arrays'}"
            yield name, [str(f) for f in write("M13", Path(name), invented("meld"), dump=how, lists=lists)]
    holes = pickle.loads(write("I9", Path("holes"), invented("iemocap"), dump=pickle.dumps)[0].read_bytes())
    next(iter(holes[3].values()))[0][0] = float("nan")
    Path("holes/I9.pkl").write_bytes(pickle.dumps(holes))
    yield "I9-nan", ["holes/I9.pkl"]
    yield "I9-nan-to-zero", ["holes/I9.pkl", "--nan-to-zero"]
    write_table(Path("own.csv"))
    np.save("text.npy", np.arange(12, dtype=np.float32).reshape(6, 2))
    yield "table", ["own.csv", "--language", "text.npy"]
    yield "table-simulated", ["own.csv", "--language", "text.npy", "--audio", "simulated"]
    yield "table-classes", ["own.csv", "--language", "text.npy", "--classes", "sad, glad,calm"]
    write_meld(Path("meld"))
    yield "MELD-CSV", ["meld", "--language", "meld/text.npz"]
    yield "MELD-CSV-simulated", ["meld", "--language", "meld/text.npz", "--audio", "simulated", "--visual", "simulated"]


def write_table(path: Path, header: str = "dialogue,position,speaker,label,split,text", **changes: str) -> None:
    """Six utterances, in which `changes` replaces texts."""
    rows = ["b,1,Ann,calm,train,Yes.", "a,0,Cy,glad,train,No.", "b,0,Bob,,train,Is it?", "c,0,Cy,sad,test,None"]
    text = "\n".join([header, *rows, "b,2,Bob,glad,train,Why\x85", "d,0,Ann,calm,dev,So."]) + "\n"
    for old, new in changes.items():
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def write_meld(folder: Path) -> None:
    """MELD's three CSV files with eight utterances and their language features."""
    folder.mkdir()
    rows = {
        "train": [
            "Hello\x92s,Ann,neutral,0,0",
            "None,Bob,joy,0,1",
            '"Why, though?",Ann,anger,0,3',
            "Hm.,Bob,fear,61,0",
        ],
        "dev": ["One,Cy,surprise,0,0", "Two,Di,disgust,0,1"],
        "test": ["Three,Bob,sadness,0,0", "Four,Ann,joy,1,0"],
    }
    for split, of in rows.items():
        numbered = [f"{i},{row}" for i, row in enumerate(of)]
        text = "\n".join(["Sr No.,Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID", *numbered]) + "\n"
        (folder / f"{split}_sent_emo.csv").write_text(text, encoding="utf-8")
    rng = np.random.default_rng(0)
    np.savez(folder / "text.npz", **{s: rng.standard_normal((len(of), 3)).astype(np.float16) for s, of in rows.items()})


def drawn_config(rng: random.Random) -> dict[str, Any]:
    """Dotted values of some keys, each in one of the forms that a YAML file may have."""

    def log(low: float, high: float) -> Any:
        value = low * (high / low) ** rng.random()
        return rng.choice([value, f"{value:.3e}", round(value + 0.5) if high > 1 and value < high - 1 else value])

    heads = rng.choice([1, 2, 3, 4, 8])
    modalities = rng.choice([["l"], ["a", "v"], ["v", "l"], "l,a", "l, a, v", "v"])
    values = {
        "data.modalities": modalities,
        "data.standardise": rng.random() < 0.5,
        "model.heads": heads,
        "model.width": 2 * heads * rng.randint(1, 32),
        "model.latent": rng.randint(1, 1024),
        "model.dag_layers": rng.randint(1, 16),
        "model.dag_speaker_window": rng.randint(1, 64),
        "model.dropout": rng.choice([0, 0.95, rng.random() * 0.9]),
        "model.anchor": rng.choice("lav"),
        **{f"model.{key}": rng.random() < 0.5 for key in ("attention", "atmosphere", "detach_teacher")},
        "model.atmosphere_scale": rng.choice([0, 1, rng.random()]),
        "model.fusion": rng.choice(["variational", "add", "concat", "gate"]),
        "model.divergence": rng.choice(["mean", "sum"]),
        **{f"loss.gamma{i}": log(1e-6, 100) for i in (1, 2, 3)},
        "loss.temperature": log(0.01, 100),
        "loss.class_weights": rng.choice(["none", "balanced"]),
        "optim.lr": log(1e-7, 1),
        "optim.weight_decay": log(1e-9, 1),
        "optim.batch_size": rng.randint(1, 4096),
        "optim.clip_norm": log(1e-3, 1e6),
        "optim.like_length": rng.random() < 0.5,
        "run.epochs": rng.randint(1, 100_000),
        "run.patience": rng.randint(0, 100_000),
        "run.device": rng.choice(["auto", "cpu", "cuda"]),
        "run.threads": rng.randint(1, 1024),
        "run.precision": rng.choice(["float32", "tf32", "bf16"]),
    }
    together = ("model.heads", "model.width")
    return {key: value for key, value in values.items() if key in together or rng.random() < 0.7}
