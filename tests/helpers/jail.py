"""A process with limits that reads hostile files: what it runs, writes or fills harms nobody.

`python tests/helpers/jail.py DOOR FILE …` prints one JSON line a file: how reading it ended, and what was said.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO

from tests.helpers import ROOT

MEMORY = 2**30
"""Bytes that the reading of files may take beyond what the process has once the project is imported."""
SECONDS = 300
"""Of computing, for all files together; one that takes for ever is killed, and the test sees that its line is missing."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def reader(door: str) -> Callable[[str], object]:
    """A way into the project that takes a file."""
    if door in ("import", "features"):
        import pandas as pd

        import lfvd.data.importers  # noqa: F401
        from lfvd import cli

        pd.DataFrame({"a": ["b"]}).to_parquet(io.BytesIO())  # pyarrow reserves 1 GB when it is loaded
        more = ["t.csv", "--language"] if door == "features" else []
        return lambda file: cli.main(["import", *more, file, "--out", "out.safetensors"])
    if door == "corpus":
        from lfvd.data.corpus import Corpus

        return Corpus.load
    from lfvd.config import Config
    from tune.plan import SearchPlan

    return {"config": Config.from_yaml, "plan": SearchPlan.from_yaml}[door]


def read_all(door: str, files: Sequence[Path], folder: Path) -> dict[Path, tuple[str, str]]:
    """File → how reading it in `folder` ended (loaded, refused, error), and the text."""
    argv = [sys.executable, __file__, door, *map(str, files)]
    done = subprocess.run(argv, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {file: tuple(json.loads(line)) for file, line in zip(files, done.stdout.splitlines(), strict=True)}


def convert_here(file: IO[bytes], output: IO[bytes]) -> str | None:
    """In place of `lfvd.data.importers.pickles.convert`: without a child process, and without its limits."""
    from lfvd.data import child

    return child.convert(file, output)


def forbid_more_memory() -> None:
    """From now on this process takes at most MEMORY more."""
    size = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))


def main() -> None:
    read = reader(sys.argv[1])
    forbid_more_memory()
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    for file in sys.argv[2:]:
        end, text = _outcome(read, file)
        made = [path for pattern in ("out*", ".out*") for path in Path().glob(pattern)]
        if made and end == "refused":
            end = f"refused, but {made} are left"
        for path in made:
            path.unlink()
        print(json.dumps((end, text)), flush=True)


def _outcome(read: Callable[[str], object], file: str) -> tuple[str, str]:
    """For a command, refused is exit code 2 with one line."""
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


if __name__ == "__main__":
    main()
