"""The parts of a recording, each made in a process of its own: python parts.py PART OUT.json, in an empty folder.

record.py starts it with the checkout first in PYTHONPATH.
"""

import contextlib
import hashlib
import html
import io
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import bad_input
import cases
import yaml

UNSTABLE = frozenset(
    [
        "seconds",
        "time",
        "host",
        "user",
        "command",
        "commit",
        "versions",
        "path",
        "wall_seconds",
        "started",
        "ended",
        "crc",
    ]
)
"""Keys of files whose values are of the sitting, not of the result."""
DURATION = r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?\s?(?:GPU-|CPU-|core-)?(?:h|ms|µs|s|min|hours?|seconds?|minutes?|(?:trials|epochs)/h)\b"
CLOCK = r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:\+\d\d:?\d\d)?)?(?: UTC)?|\b\d+:\d\d(?::\d\d)?\b"


def stable(value):
    """A value of a JSON or YAML file without what differs between two runs of the same code."""
    if isinstance(value, dict):
        return {str(k): stable(v) for k, v in value.items() if k not in UNSTABLE}
    return [stable(v) for v in value] if isinstance(value, list | tuple) else value


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def lines(path: Path) -> list:
    return [stable(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def normalised(text: str) -> str:
    text = text.replace(str(Path.cwd()), ".").replace(os.environ.get("GATE_COMMIT", "\0"), "COMMIT")
    return re.sub(CLOCK, "CLOCK", re.sub(DURATION, "DURATION", text))


def page(text: str) -> dict:
    """A printed text → its numbers in order, compared strictly, and its lines, which are wording."""
    found = [line for raw in normalised(text).splitlines() if (line := " ".join(raw.split()))]
    numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?", "\n".join(found))
    return {"numbers": numbers, "text": found}


def run(main, *argv: str) -> dict:
    """A command in this process → its exit code and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(list(argv))
    except SystemExit as end:
        code = end.code or 0
    except BaseException as error:  # a traceback for the user: recorded as such
        code = f"raised {type(error).__name__}: {error}"
    return {"code": code, "text": {"out": normalised(out.getvalue()), "err": normalised(err.getvalue())}}


def corpus(path: Path) -> dict:
    """The bytes, header and sentences of a corpus."""
    import pandas as pd
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
    beside = path.with_suffix(".parquet")
    sentences = digest(pd.read_parquet(beside).to_csv().encode()) if beside.exists() else None
    return {"bytes": digest(path.read_bytes()), "header": header, "sentences": sentences}


def golden() -> dict:
    """Runs of a few steps on a simulated corpus: every number of every epoch, the weights, the scores and predictions."""
    from safetensors.torch import load_file

    from lfvd.cli import main

    found = {"simulate": {}, "train": {}}
    for like, count, seed in (("meld", 24, 0), ("iemocap", 8, 1)):
        out = f"{like}.safetensors"
        said = run(main, "simulate", "--like", like, "--dialogues", str(count), "--seed", str(seed), "--out", out)
        found["simulate"][like] = said | {
            "describe": page(run(main, "describe", out)["text"]["out"]),
            **corpus(Path(out)),
        }
    for name, (like, settings) in cases.RUNS.items():
        data, folder = f"{like}.safetensors", Path(name)
        said = run(main, "train", like, "--data", data, "--out", name, *settings)
        this = found["train"][name] = {"code": said["code"], **page("".join(said["text"].values()))}
        for seed in sorted(folder.glob("seed*")):
            weights = load_file(seed / "model.safetensors")
            this[seed.name] = {
                "epochs": lines(seed / "epochs.jsonl"),
                "weights": {k: digest(v.contiguous().numpy().tobytes()) for k, v in sorted(weights.items())},
            }
        this["evaluate"] = page(run(main, "evaluate", name, "--data", data)["text"]["out"])
        run(main, "predict", name, "--data", data, "--out", f"{name}.csv")
        this["predictions"] = digest(Path(f"{name}.csv").read_bytes())
        this["files"] = {f.name: stable(json.loads(f.read_text())) for f in sorted(folder.glob("*.json"))}
        this["config"] = stable(yaml.safe_load((folder / "config.yaml").read_text()))
        this["names"] = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return found


def imports() -> dict:
    """The corpus of every published layout, of old and new pickles, of a table and of MELD's CSV folder."""
    from lfvd.cli import main

    found = {}
    for name, argv in cases.sources():
        said = run(main, "import", *argv, "--out", f"{name}.safetensors")
        found[name] = said | (corpus(Path(f"{name}.safetensors")) if said["code"] == 0 else {})
        if "tensors" in name:  # torch's pickles hold memory addresses: their hash, in the header, is another each time
            del found[name]["bytes"], found[name]["header"]["lfvd-corpus"]["info"]["sources"]
    return found


def configs() -> dict:
    """`flat()` of what is shipped, and of 1,000 drawn configs, made from dotted and from nested values."""
    from lfvd.config import Config

    root = Path(os.environ["GATE_CHECKOUT"])
    found = {p.stem: Config.from_yaml(p).flat() for p in sorted((root / "lfvd" / "presets").glob("*.yaml"))}
    for path in sorted((root / "search_spaces").glob("*.yaml")):
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
        found[f"plan {path.stem}"] = Config.from_yaml(plan["base"]).with_values(plan.get("set") or {}).flat()
    drawn, rng = [], random.Random(0)
    for i in range(1000):
        dotted = cases.drawn_config(rng)
        if i % 2:
            nested: dict = {}
            for key, value in dotted.items():
                nested.setdefault(key.split(".")[0], {})[key.split(".")[1]] = value
            config = Config.from_dict(nested)
        else:
            config = Config.from_yaml(("meld", "iemocap")[i // 2 % 2]).with_values(dotted)
        config.to_yaml("drawn.yaml")
        assert Config.from_yaml("drawn.yaml").flat() == config.flat()
        drawn.append(json.dumps(config.flat()) + Path("drawn.yaml").read_text(encoding="utf-8"))
    text = json.dumps(drawn)
    for old, new in cases.RENAMED.items():
        text = text.replace(old, new)
    return found | {"drawn": digest(text.encode()), "first drawn": json.loads(text)[:3]}


def study(name: str) -> dict:
    """An undisturbed study with one slot: its files, and what `status`, `best` and `report` show."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    from lfvd.cli import main as lfvd
    from tune.cli import main

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run(lfvd, "simulate", "--dialogues", "40", "--seed", "0", "--out", "small.safetensors")
    Path("plan.yaml").write_text(yaml.safe_dump(cases.STUDIES[name], sort_keys=False), encoding="utf-8")
    argv = ["search", "plan.yaml", "--data", "small.safetensors", "--name", name, "--results", "results"]
    done = subprocess.run(
        [sys.executable, "-c", "from tune.cli import main; main()", *argv], capture_output=True, text=True
    )
    folder = Path("results") / name
    if done.returncode:
        return {"code": done.returncode, "text": normalised(done.stdout + done.stderr)}
    ended = done.stdout[done.stdout.index("finalists") :].partition("MLflow:")[0]
    found = {"code": 0, "stderr": normalised(done.stderr), "end": page(ended)}
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    journal = optuna.load_study(study_name=None, storage=storage)
    found["trials"] = {
        t.number: {
            "state": t.state.name,
            "values": t.values,
            "params": t.params,
            "epochs": t.intermediate_values,
            "attributes": stable(t.user_attrs),
        }
        for t in journal.trials
    }
    for file in ("epochs.jsonl", "confirm.jsonl", "test_looks.jsonl"):
        found[file] = lines(folder / file)
    for file in ("best.yaml", "plan.yaml"):
        found[file] = stable(yaml.safe_load((folder / file).read_text(encoding="utf-8")))
    found["names"] = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    for verb in ("status", "best"):
        found[verb] = page(run(main, verb, name, "--results", "results")["text"]["out"])
    run(main, "report", name, "--results", "results")
    text = (folder / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"<(script|style)\b.*?</\1>", "\n", text, flags=re.DOTALL)
    found["report"] = page(html.unescape(re.sub(r"<[^>]+>", "\n", text)))
    return found


def errors() -> dict:
    """Exit code and texts for bad input."""
    from lfvd.cli import main as lfvd
    from tune.cli import main as tune

    bad_input.write_bad_files()
    run(lfvd, "simulate", "--dialogues", "10", "--out", "good.safetensors")
    bad_input.write_bad_corpora(Path("good.safetensors"))
    mains = {"lfvd": lfvd, "lfvd-tune": tune}
    before = {p.name for p in Path().iterdir()}
    found = {" ".join((name, *argv)): run(mains[name], *argv) for name, *argv in bad_input.bad_commands()}
    return found | {"files left": sorted({p.name for p in Path().iterdir()} - before)}


PARTS = {"golden": golden, "imports": imports, "configs": configs, "errors": errors}
PARTS |= {f"study {name}": lambda name=name: study(name) for name in cases.STUDIES}


if __name__ == "__main__":
    import lfvd

    assert Path(lfvd.__file__).is_relative_to(os.environ["GATE_CHECKOUT"]), lfvd.__file__
    Path(sys.argv[2]).write_text(json.dumps(PARTS[sys.argv[1]]()), encoding="utf-8")
