"""What is fuzzed: a kind of file, inputs of that kind, and what must hold for every one of them.

An input is either read, or refused by an InputError (exit 2 and one line). It may start nothing, write nothing but the
output it was asked for, and leave that whole or absent. Memory and time are limited by who runs it (run.py).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import inputs
from hypothesis.strategies import SearchStrategy

from lfvd import cli
from lfvd.config import Config
from lfvd.data.corpus import Corpus
from lfvd.data.importers import pickles
from lfvd.files import InputError
from tests.helpers.jail import convert_here
from tune.plan import SearchPlan

pickles.convert = convert_here  # a child for each input would take most of the time, and hide what it reaches


def import_file(file: Path) -> None:
    """By the command; what it leaves is a whole corpus, or nothing."""
    out = file.parent / "out.safetensors"
    said, code = StringIO(), None
    try:
        with redirect_stdout(StringIO()), redirect_stderr(said):
            cli.main(["import", str(file), "--out", str(out)])
    except SystemExit as leaving:
        code = leaving.code
    assert code in (0, 2), code
    assert (code == 0) == out.exists(), "exit 0 means that there is an output"
    assert code == 0 or _one_line(said.getvalue()), said.getvalue()
    if out.exists():
        Corpus.load(out)
    left = {f.name for f in file.parent.iterdir()} - {file.name, out.name, out.with_suffix(".parquet").name}
    assert not left, left


def _one_line(text: str) -> bool:
    return text.startswith("lfvd: ") and text.count("\n") == 1 and text[:-1].isprintable()


def read_corpus(file: Path) -> None:
    """A canonical file, as every command opens it."""
    from rich.console import Console

    from lfvd.data.describe import describe

    Console(file=StringIO()).print(describe(Corpus.load(file)))


def read_settings(file: Path) -> None:
    """A YAML file, as a configuration and as a plan."""
    refused = []
    for reader in (Config.from_yaml, SearchPlan.from_yaml):
        try:
            reader(file)
        except InputError as error:
            refused.append(error)
    assert all(str(error).isprintable() for error in refused), refused
    if len(refused) == 2:
        raise refused[0]


TARGETS: dict[str, tuple[str, Callable[[Path], object], Callable[[], SearchStrategy[bytes]]]] = {
    "pickle": ("x.pkl", import_file, inputs.pickles),
    "json": ("train_data_roberta_mm.json.feature", import_file, inputs.jsons),
    "safetensors": ("x.safetensors", read_corpus, inputs.corpora),
    "yaml": ("x.yaml", read_settings, inputs.yamls),
}
"""Name → file name, reader, inputs that are nearly valid."""


class Guard:
    """Sees everything that Python is told to do; the events of an input that are no reading are kept."""

    FORBIDDEN = (
        "os.system os.exec os.posix_spawn os.fork os.forkpty os.spawn os.kill pty.spawn subprocess.Popen socket.connect "
        "ctypes.dlopen shutil.rmtree webbrowser.open code.__new__ function.__new__"
    )

    def __init__(self, folder: Path) -> None:
        self.folder, self.on, self.seen, self.names = str(folder), False, list[str](), set(self.FORBIDDEN.split())
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in self.names or (event == "open" and _writes(args) and not str(args[0]).startswith(self.folder)):
            self.seen.append(f"{event} {args!r:.200}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raises AssertionError where something forbidden happened inside."""
        self.on = True
        try:
            yield
        finally:
            self.on = False
            seen, self.seen = self.seen, []
        assert not seen, seen


def _writes(args: tuple[Any, ...]) -> bool:
    return isinstance(args[1], str) and any(c in args[1] for c in "wax+")


class Fuzz:
    """One target in a folder of its own; call it with an input. Raises AssertionError, or what the reader let out."""

    def __init__(self, name: str, folder: Path) -> None:
        self.file, self.reader, self.strategy = TARGETS[name]
        self.folder, self.count, self.read = folder, 0, 0
        self._one(b"")  # everything is imported before the guard looks
        self.guard = Guard(Path(tempfile.gettempdir()))

    def __call__(self, data: bytes) -> None:
        with self.guard.watching():
            self._one(data)

    def _one(self, data: bytes) -> None:
        for left in self.folder.iterdir():
            left.unlink()
        (self.folder / self.file).write_bytes(data)
        self.count += 1
        with suppress(InputError):
            self.reader(self.folder / self.file)
            self.read += self.reader is not import_file or (self.folder / "out.safetensors").exists()
