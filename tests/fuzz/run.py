"""A long fuzz run: `python tests/fuzz/run.py --inputs 200000` (`make fuzz`).

Each kind of file has a quarter of the inputs: valid files and attacks with parts replaced by odd values and a few bytes
damaged, made by hypothesis. An input must be read or refused by an InputError (a command: exit 2 and one line), start nothing,
and write nothing but its output. One that does not, takes over 10 s or over 1 GB ends the run with exit 1 and is printed.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import hypothesis
import numpy as np
import yaml
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from rich.console import Console

from lfvd import cli
from lfvd.config import Config
from lfvd.data.corpus import Corpus
from lfvd.data.describe import describe
from lfvd.data.importers import pickles
from lfvd.files import InputError
from tests.helpers import hostile, hostile_files
from tests.helpers.jail import convert_here, forbid_more_memory
from tests.helpers.layouts import IEMOCAP_LAYOUTS, PICKLED, contents, invented
from tests.helpers.plans import PLAN
from tune.plan import SearchPlan

SECONDS = 10
pickles.convert = convert_here  # a child for each input would take most of the time, and hide what it reaches

NUMBERS = (None, True, -1, 0, 1, 7, 60, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan"))
TEXTS = ("", "a", "0", "\ud800", "\x1b[2J", "Ses01F_impro01", "M", "happy", "1e5", "l,a")
CONTAINERS: tuple[Any, ...] = ([], [[]], [0], [0.5, 0.5], [None], {}, {"a": 1}, (), (1, 2))
ODD = st.sampled_from([*NUMBERS, *TEXTS, *CONTAINERS])
WORDS = [bytes([c]) for c in b"(.0FGIJKLMNPQRSTUVX]abcdeghijlopqrstu}\x81\x85\x86\x87\x88\x8a\x8c\x93\x94\x95"]
WORDS += rb'[ ] { } , : " NaN 1e999 \ud800 null 99999999999999999999 F32 0x :59 .nan ~ &a *a !!int <<: ? - '.split()
WORDS += [b"cos\nsystem\n", b"cnumpy\ndtype\n", b"h\x00", b"\x00" * 8, b"\xff" * 8, b"\t", b"---\n", b"%YAML 1.1\n"]


@st.composite
def mutated(draw: DrawFn, value: Any) -> Any:
    """A value with up to three of its parts changed, left out, given twice or exchanged."""
    for _ in range(draw(st.integers(0, 3))):
        value = changed(draw, value)
    return value


def changed(draw: DrawFn, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        odd = [value[:-1], value[..., None], value.astype("S4"), np.full(value.shape, np.nan), value.T, [*value]]
        return draw(st.sampled_from(odd))
    if not isinstance(value, list | tuple | dict) or not value or draw(st.integers(0, 9)) == 0:
        return draw(ODD)
    items = [list(pair) for pair in value.items()] if isinstance(value, dict) else list(value)
    at, other, how = (draw(st.integers(0, end)) for end in (len(items) - 1, len(items) - 1, 9))
    if how == 0:
        del items[at]
    elif isinstance(value, dict):
        items[at][1] = items[other][1] if how == 1 else changed(draw, items[at][1])
    elif how == 1:
        items.insert(at, items[other])
    else:
        items[at] = changed(draw, items[at])
    return dict(items) if isinstance(value, dict) else type(value)(items)


@st.composite
def inputs(draw: DrawFn, valid: list[Any], write: Callable[[Any], bytes], attacks: list[hostile.Attack]) -> bytes:
    """Mutated values in most draws, attacks in the others; up to four places overwritten, filled in or cut."""
    small = [attack.content for attack in attacks if len(attack.content) <= 20_000]
    whole = st.sampled_from(valid).flatmap(mutated).map(write)
    data = bytearray(draw(st.one_of(whole, whole, whole, st.sampled_from(small))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2, 4]))):
        at, word = draw(st.integers(0, len(data))), draw(st.sampled_from(WORDS) | st.binary(max_size=3))
        data[at : at + draw(st.sampled_from([0, 1, len(word), 2 * len(word)]))] = word
    return bytes(data)


def corpus(parts: Any) -> bytes:
    """A corpus of arrays and info, where they still are such."""
    named = {k: np.asarray(v, np.int64) if k != "language" else v for k, v in hostile_files.HONEST.items()}
    with suppress(Exception):
        named |= {k: np.array(v, np.int64) for k, v in parts["arrays"].items() if k in named}
    with suppress(Exception):
        return hostile_files.safetensors(named, parts["info"])
    return hostile_files.safetensors(named, values=json.dumps(parts))


def plain(value: Any) -> Any:
    """Tuples as lists: YAML would write a tag."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


SAID = {"text": "hi", "speaker": "A", "label": "joy", "cls": [[0.5] * 4, [0.25] * 3, [0.125] * 2]}
LAYOUTS = [
    contents(name, invented("iemocap" if name in IEMOCAP_LAYOUTS else "meld"), lists)
    for name in PICKLED
    for lists in (False, True)
]
CORPUS = {
    "arrays": {k: v.tolist() for k, v in hostile_files.HONEST.items() if k != "language"},
    "info": hostile_files.INFO,
}
PLANS = [PLAN, {"model": {"width": 8}, "data": {"modalities": ["l"]}}, {**PLAN, "budget": {"wall": "2h"}}]
KINDS: dict[str, tuple[str, list[Any], Callable[[Any], bytes], Callable[[], Any]]] = {
    "pickle": ("x.pkl", LAYOUTS, functools.partial(pickle.dumps, protocol=4), lambda: hostile.pickles(bombs=False)),
    "json": (
        "train_x.json.feature",
        [[[SAID, SAID], [SAID]], [[{**SAID, "cls": [0.5] * 4}]]],
        lambda value: json.dumps(value).encode(),
        hostile_files.jsons,
    ),
    "safetensors": ("x.safetensors", [CORPUS], corpus, hostile_files.corpora),
    "yaml": ("x.yaml", PLANS, lambda v: yaml.dump(plain(v)).encode("utf-8", "replace"), hostile_files.yamls),
}
"""Name → file name, valid values, how they are written, attacks."""


def read(file: Path) -> None:
    """A file as a user would have it read."""
    if file.suffix == ".safetensors":
        return Console(file=StringIO()).print(describe(Corpus.load(file)))
    if file.suffix == ".yaml":
        with suppress(InputError):
            Config.from_yaml(file)
        return SearchPlan.from_yaml(file)
    out, said, code = file.parent / "out.safetensors", StringIO(), None
    try:
        with redirect_stdout(StringIO()), redirect_stderr(said):
            cli.main(["import", str(file), "--out", str(out)])
    except SystemExit as leaving:
        code = leaving.code
    text = said.getvalue()
    assert code == 0 or (
        code == 2 and text.startswith("lfvd: ") and text.count("\n") == 1 and text[:-1].isprintable()
    ), text
    assert {f.name for f in file.parent.iterdir()} - {"out.parquet"} == {file.name, out.name} - (
        {out.name} if code else set()
    )
    if code:
        raise InputError(text.rstrip())
    Corpus.load(out)


FORBIDDEN = [
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "os.spawn",
    "os.kill",
    "pty.spawn",
    "subprocess.Popen",
    "socket.connect",
    "ctypes.dlopen",
    "shutil.rmtree",
    "webbrowser.open",
    "code.__new__",
    "function.__new__",
]


def fuzz(name: str, count: int, seed: int) -> None:
    """One kind of file, with everything imported, and 1 GB from there on."""
    file, valid, write, attacks = KINDS[name]
    folder, seen, done = Path(tempfile.mkdtemp(prefix="input-")), list[str](), [0, 0]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        """Sees everything that Python is told to do; keeps what is no reading."""
        writes = event == "open" and isinstance(args[1], str) and any(c in args[1] for c in "wax+")
        if event in FORBIDDEN or (writes and not str(args[0]).startswith(tempfile.gettempdir())):
            seen.append(f"{event} {args!r:.200}")

    def one(data: bytes) -> None:
        for left in folder.iterdir():
            left.unlink()
        (folder / file).write_bytes(data)
        seen.clear()
        done[0] += 1
        text = ""
        try:
            read(folder / file)
            done[1] += 1
        except InputError as error:
            text = str(error)
        assert text.isprintable(), text
        assert not seen, seen

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=[*hypothesis.HealthCheck]
    )
    @hypothesis.given(inputs(valid, write, [*attacks()]))
    def every_input(data: bytes) -> None:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            one(data)
        finally:
            faulthandler.cancel_dump_traceback_later()

    one(b"")  # everything is imported before the hook looks
    forbid_more_memory()
    sys.addaudithook(hook)
    began = time.monotonic()
    every_input()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{file}: {done[0]} inputs, {done[1]} read, {time.monotonic() - began:.0f} s, {most} MB", flush=True)


def main() -> int:
    """All kinds one after another, each in a process of its own; prints a line a kind."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS)
    given = parser.parse_args()
    if given.only:
        fuzz(given.only, given.inputs, given.seed)
        return 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:
        for name in KINDS:
            argv = [sys.executable, __file__, "--only", name, "--inputs", str(given.inputs // len(KINDS))]
            argv += ["--seed", str(given.seed)]
            if subprocess.run(argv, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": scratch}).returncode:
                print(f"{name}: FAILED, see above", flush=True)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
