"""Bad input: settings, configs, plans, feature files, tables and corpora, and the commands that must refuse them."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from cases import PLAN, write_table

BAD_SETTINGS = (
    *("model.heads=3", "model.width=7", "model.width=5000", "model.width=8.5", "model.heads=true", "model.latent=0"),
    *("model.dropout=nan", "model.dropout=1", "model.anchor=x", "model.fusion=sum", "model.attention=maybe", "lr=0.1"),
    *("optim.lr=0", "optim.lr=fast", "optim.batchsize=4", "optim.clip_norm=.inf", "data.modalities=l,l", "nonsense"),
    *("data.modalities=[]", "data.modalities=x", "loss.gamma1=-1", "run.device=gpu", "run.epochs=0", "model.heads=["),
    "model=4",
)
BAD_CONFIGS = {
    "yaml": "model: [unclosed",
    "list": "- 1\n- 2\n",
    "group": "modle: {width: 8}\n",
    "flat": "model.width: 8\n",
    "many": "model: {width: wide, heads: 3, depth: 2}\noptim: {lr: -1}\nloss: 5\n",
    "twice": "model: {width: 8, width: 16}\n",
    "tag": "model: !!python/object/apply:os.system [touch ran]\n",
    "alias": "a: &a [x, x]\nb: &b [*a, *a]\nmodel: {width: *b}\n",
    "control": 'model: {fusion: "\\e[2J"}\n',
}
BAD_PLANS: dict[str, dict[str, Any]] = {
    "trials": {"trials": 0},
    "trials-text": {"trials": "many"},
    "base": {"base": "nosuch"},
    "base-number": {"base": 4},
    "set-unknown": {"set": {"model.depth": 3}},
    "set-fixed": {"set": {"run.epochs": 3}},
    "unknown": {"schedular": {}},
    "section": {"sampler": "tpe"},
    "sampler-kind": {"sampler": {"kind": "grid"}},
    "sampler-key": {"sampler": {"sead": 1}},
    "asha": {"scheduler": {"kind": "asha", "grace_epochs": 4, "max_epochs": 4}},
    "reduction": {"scheduler": {"reduction": 1}},
    "space-empty": {"space": {}},
    "space-unknown": {"space": {"optim.lrr": {"low": 0.1, "high": 0.2}}},
    "space-shape": {"space": {"optim.lr": [0.1, 0.2]}},
    "space-swapped": {"space": {"optim.lr": {"low": 0.2, "high": 1e-5}}},
    "space-log": {"space": {"loss.gamma1": {"low": 0, "high": 1, "log": True}}},
    "space-range": {"space": {"optim.lr": {"low": 1e-5, "high": 5}}},
    "space-baseline": {"space": {"optim.lr": {"low": 0.1, "high": 0.2}}},
    "space-heads": {"space": {"model.heads": {"choices": [1, 3, 4]}}},
    "space-choices": {"space": {"model.fusion": {"choices": ["add", "add"]}}},
    "space-lists": {"space": {"data.modalities": {"choices": [["l"], ["l", "a"]]}}, "set": {}},
    "space-run": {"space": {"run.epochs": {"low": 1, "high": 5}}},
    "space-both": {"space": {"model.latent": {"low": 1, "high": 5}}},
    "space-words": {"space": {"model.fusion": {"low": 1, "high": 5}}},
    "gpu": {"resources": {"gpu": 1.5}},
    "concurrent": {"resources": {"max_concurrent": 0}},
    "timeout": {"resources": {"epoch_timeout": "soon"}},
    "wall": {"budget": {"wall": "8"}},
    "gpu-hours": {"budget": {"gpu_hours": 3}},
    "seeds": {"confirm": {"seeds": [1, 1]}},
    "several": {"trials": -1, "base": "x", "confirm": {"finalists": "two"}, "space": {"a": 1}},
}
BAD_FEATURES = {
    "system.pkl": b"cposix\nsystem\n(S'touch ran'\ntR.",
    "eval.pkl": b"\x80\x04c__builtin__\neval\n(Vopen('ran','w')\ntR.",
    "truncated.pkl": pickle.dumps(({"a": [1, 2]},) * 9, 4)[:-9],
    "empty.pkl": b"",
    "text.pkl": b"these are notes, not features",
    "number.pkl": pickle.dumps(5),
    "shape.pkl": pickle.dumps(tuple({} for _ in range(9))),
    "seven.pkl": pickle.dumps(({"a": ["x"]},) * 5),
    "train_nested.json": b"[" * 5000,
    "train_nan.json": b'[[{"text": "a", "speaker": "A", "label": "joy", "cls": [[NaN], [1], [1]]}]]',
    "train_numbers.json": b"[[1, 2, 3]]",
    "notes.txt": b"hello",
    "array.npy": b"\x93NUMPY\x01\x00broken",
}
BAD_TABLES = {
    "column": {"header": "dialogue,position,speaker,emotion,split,text"},
    "speaker": {"Ann": ""},
    "split": {"test": "all"},
    "position": {"b,1": "b,x"},
    "twice": {"b,1": "b,0"},
    "two-splits": {"b,2,Bob,glad,train": "b,2,Bob,glad,test"},
}


def write_bad_files() -> None:
    """All bad files but corpora, into the working folder."""
    for name, text in BAD_CONFIGS.items():
        Path(f"config-{name}.yaml").write_text(text, encoding="utf-8")
    for name, changes in BAD_PLANS.items():
        Path(f"plan-{name}.yaml").write_text(yaml.safe_dump({**PLAN, **changes}), encoding="utf-8")
    Path("plan-good.yaml").write_text(yaml.safe_dump(PLAN), encoding="utf-8")
    for name, content in BAD_FEATURES.items():
        Path(name).write_bytes(content)
    for name, table in BAD_TABLES.items():
        write_table(Path(f"table-{name}.csv"), **table)
    write_table(Path("own.csv"))
    np.save("text.npy", np.ones((6, 2), np.float32))
    np.save("short.npy", np.ones((5, 2), np.float32))
    np.save("flat.npy", np.ones(6, np.float32))
    np.save("nan.npy", np.full((6, 2), np.nan, np.float32))
    np.save("objects.npy", np.array([{}] * 6, object), allow_pickle=True)


def write_bad_corpora(good: Path) -> None:
    """Corpora that were cut, changed or are of another kind."""
    content = good.read_bytes()
    Path("cut.safetensors").write_bytes(content[:-100])
    Path("changed.safetensors").write_bytes(content[:-3000] + bytes([content[-3000] ^ 1]) + content[-2999:])
    Path("foreign.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    Path("version.safetensors").write_bytes(content.replace(b'\\"version\\": 1', b'\\"version\\": 9', 1))


def bad_commands() -> Iterator[tuple[str, ...]]:
    """Commands that must fail, with `lfvd` or `lfvd-tune` in front."""
    train = ("lfvd", "train", "meld", "--data", "good.safetensors", "--out", "run")
    yield from ((*train, "--set", setting) for setting in BAD_SETTINGS)
    yield (*train, "--set", "model.width=8", "--set", "model.width=16")
    yield from (
        (*train, *options.split()) for options in ("--seeds 0,0", "--seeds a", "--seed 1 --seeds 2", "--seed -1")
    )
    yield from ((*train, *options.split()) for options in ("--device gpu", "--patience -1", "--epochs 3"))
    yield from (("lfvd", "train", f"config-{n}.yaml", *train[3:]) for n in (*BAD_CONFIGS, "gone"))
    for name in ("gone", "cut", "changed", "foreign", "version"):
        yield "lfvd", "describe", f"{name}.safetensors"
    yield "lfvd", "train", "meld", "--data", "notes.txt", "--out", "run"
    yield from (("lfvd", verb, "norun", "--data", "good.safetensors") for verb in ("evaluate", "predict"))
    yield "lfvd", "evaluate", "norun", "--data", "good.safetensors", "--split", "dev"
    yield from (("lfvd", "import", name, "--out", "x.safetensors") for name in (*BAD_FEATURES, "gone.pkl"))
    language = ("--language", "text.npy", "--out", "x.safetensors")
    yield from (("lfvd", "import", f"table-{name}.csv", *language) for name in BAD_TABLES)
    for name in ("short.npy", "flat.npy", "nan.npy", "objects.npy", "array.npy", "gone.npy", "notes.txt"):
        yield "lfvd", "import", "own.csv", "--language", name, "--out", "x.safetensors"
    yield "lfvd", "import", "own.csv", *language, "--classes", "calm,glad"
    yield "lfvd", "import", "own.csv", "--language", "text.npy", "--out", "x.csv"
    yield "lfvd", "import", "own.csv", "--language", "text.npy"
    yield "lfvd", "import", "own.csv", *language, "--valid-fraction", "2"
    yield from (("lfvd", "simulate", "--dialogues", n, "--out", "x.safetensors") for n in ("0", "-3", "many"))
    yield "lfvd", "simulate", "--like", "cmu", "--out", "x.safetensors"
    yield ("lfvd", "fly")
    search = ("--data", "gone.safetensors", "--results", "none")
    yield from (("lfvd-tune", "search", f"plan-{n}.yaml", *search) for n in (*BAD_PLANS, "good", "gone"))
    yield "lfvd-tune", "search", "config-yaml.yaml", *search
    yield "lfvd-tune", "search", "plan-good.yaml", *search, "--name", "a/b"
    for name in ("cut.safetensors", "notes.txt"):
        yield "lfvd-tune", "search", "plan-good.yaml", "--data", name, "--results", "none"
    for verb in ("status", "best", "confirm", "report", "resume", "stop", "sync"):
        yield "lfvd-tune", verb, "nosuch", "--results", "none"
    yield "lfvd-tune", "compare", "nosuch", "other", "--results", "none"
    yield "lfvd-tune", "prune", "nosuch", "1", "--results", "none"
    yield "lfvd-tune", "resume", "nosuch", "--trials", "0"
    yield "lfvd-tune", "status", "nosuch", "--colour"
    yield "lfvd-tune", "reproduce", "meld", *search, "--name", "r", "--tables", "1,9"
    yield "lfvd-tune", "slurm", "plan-good.yaml", "--nodes", "0", "--time", "1:00:00"
    yield "lfvd-tune", "slurm", "plan-good.yaml", "--nodes", "2", "--time", "soon"
