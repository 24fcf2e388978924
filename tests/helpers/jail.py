"""Reads files in children with limits: a crash, a hang, a file made or a gigabyte taken is an outcome, not the end of the tests.

`python tests/helpers/jail.py DOOR FILE …` prints one JSON line a file. Each file is read by a fork of a process that has imported
the project already, in a new working directory under the present one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from tests.helpers import ROOT

SECONDS = 10
MEMORY = 2**30
"""Bytes of address space that a reader may take beyond what it has once the project is imported."""
SLACK = 2**28
"""Bytes above MEMORY up to which an attempt is let through, so that it is seen rather than refused by the system."""

EVIL = {
    "evil.py": b"open('ran', 'w').close()\n",
    "evil.pkl": b"\x80\x02cos\nsystem\n(X\x09\x00\x00\x00touch rantR.",
    "evil.npy": b"\x93NUMPY\x01\x00\x76\x00"
    + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117)
    + b"\n\x80\x02cos\nsystem\n(X\x09\x00\x00\x00touch rantR.",
}
"""Files that lie in the working directory of every child, which is also on its path of modules."""
EVIL["t.csv"] = b"dialogue,position,speaker,label,split,text\n" + b"".join(
    b"d%d,%d,A,%s,%s,hello\n" % (i // 2, i % 2, b"joy" if i % 2 else b"calm", (b"train", b"valid", b"test")[i // 2])
    for i in range(6)
)
"""Utterances for the door `features`: two of each split."""


def reader(door: str) -> Callable[[str], object]:
    """A way into the project that takes a file; what it needs is imported here, once."""
    if door in ("import", "features", "describe"):
        import pandas as pd

        import lfvd.data.describe
        import lfvd.data.importers  # noqa: F401
        from lfvd import cli

        pd.DataFrame({"a": ["b"]}).to_parquet(io.BytesIO())  # else every child would load pyarrow, which reserves 1 GB
        more = {"import": [], "features": ["t.csv", "--language"], "describe": []}[door]
        verb, end = ("describe", []) if door == "describe" else ("import", ["--out", "out.safetensors"])
        return lambda file: cli.main([verb, *more, file, *end])
    if door == "corpus":
        from lfvd.data.corpus import Corpus

        return Corpus.load
    if door == "config":
        from lfvd.config import Config

        return Config.from_yaml
    if door == "plan":
        from tune.plan import SearchPlan

        return SearchPlan.from_yaml
    import numpy  # noqa: F401 (for the plain unpickler, which is to find all that the attacks name)

    from lfvd.data.importers.pickles import unpickled

    return {"unpickle": unpickled, "pickle": lambda file: pickle.loads(Path(file).read_bytes(), encoding="latin1")}[
        door
    ]


def read_all(door: str, files: Sequence[Path | str], folder: Path) -> dict[str, dict[str, Any]]:
    """File → what came of it: `end` (loaded, refused, error, killed), `text`, `made` (files left), `seconds`, `bytes` (peak)."""
    argv = [sys.executable, __file__, door, *map(str, files)]
    limit = 60 + 2 * len(files) + SECONDS
    done = subprocess.run(
        argv, cwd=folder, env=environment(), capture_output=True, text=True, timeout=limit, check=True
    )
    return {str(file): json.loads(line) for file, line in zip(files, done.stdout.splitlines(), strict=True)}


def environment() -> dict[str, str]:
    """The project's own modules first, whatever is installed."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def main() -> None:
    """Read every file named, each in a fork."""
    read = reader(sys.argv[1])
    for file in sys.argv[2:]:
        print(json.dumps(_read(read, str(Path(file).absolute()))), flush=True)


def _read(read: Callable[[str], object], file: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=".") as name:
        for evil, content in EVIL.items():
            (Path(name) / evil).write_bytes(content)
        report = Path(name) / "report"
        began = time.monotonic()
        child = os.fork()
        if not child:
            try:
                _child(read, file, Path(name), report.absolute())
            finally:
                os._exit(1)
        status = _wait(child, began + SECONDS)
        seconds = time.monotonic() - began
        _wait_for_others(child)
        text = report.read_text() if report.is_file() else ""
        outcome = (
            json.loads(text) if status == 0 and text else {"end": "killed", "text": f"status {status}", "bytes": 0}
        )
        made = sorted({f.name for f in Path(name).rglob("*")} - {*EVIL, "report"})
        return {**outcome, "made": made, "seconds": seconds}


def _wait(child: int, deadline: float) -> int:
    """The status of a child, which is killed at the deadline."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        time.sleep(0.002)


def _wait_for_others(group: int) -> None:
    """What a child started may outlive it, and make its file later; after two seconds it is killed."""
    deadline = time.monotonic() + 2
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.002)
        os.killpg(group, signal.SIGKILL)


def _child(read: Callable[[str], object], file: str, folder: Path, report: Path) -> None:
    os.setsid()
    sys.path.insert(0, str(folder.absolute()))
    os.chdir(folder)
    sys.dont_write_bytecode = True
    before = _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (before + MEMORY + SLACK,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end, text = _outcome(read, file)
    taken = max(0, _memory("VmPeak") - before)
    report.write_text(json.dumps({"end": end, "text": text, "bytes": taken}))
    os._exit(0)


def _outcome(read: Callable[[str], object], file: str) -> tuple[str, str]:
    """How reading ended; for a command, refused is exit code 2 with one line."""
    from lfvd.files import InputError

    said = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            read(file)
    except InputError as error:
        return "refused", str(error)
    except SystemExit as leaving:
        return {0: "loaded", 2: "refused"}.get(leaving.code, "error"), said.getvalue()  # type: ignore[call-overload]
    except BaseException:
        return "error", traceback.format_exc()[-2000:]
    return "loaded", said.getvalue()


def _memory(key: str) -> int:
    """Bytes, of /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition(f"{key}:")[2].split()[0])


if __name__ == "__main__":
    main()
