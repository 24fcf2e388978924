"""A long fuzz run: `python tests/fuzz/run.py --inputs 200000` (`make fuzz`).

Each target has a quarter of the inputs, three of four of them bytes that atheris drives by coverage, the others nearly
valid files that hypothesis makes. Without atheris, hypothesis makes all. An input that is not read or refused as it
must be, takes over 10 s or over 1 GB ends the run with exit 1 and is kept.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

SECONDS = 10
MEMORY = 2**30


def main() -> int:
    """All targets one after another, each engine in a process of its own; prints a table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["pickle", "json", "safetensors", "yaml"])
    parser.add_argument("--engine", choices=["atheris", "hypothesis"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.engine:
        {"atheris": by_atheris, "hypothesis": by_hypothesis}[given.engine](given.only, given.inputs, given.seed)
        return 0
    has_atheris = importlib.util.find_spec("atheris") is not None
    shares = {"atheris": 3, "hypothesis": 1} if has_atheris else {"hypothesis": 4}
    scratch = tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    environment = {**os.environ, "TMPDIR": scratch}
    for target in [given.only] if given.only else ["pickle", "json", "safetensors", "yaml"]:
        for engine, share in shares.items():
            inputs = given.inputs * share // (4 if given.only else 16)
            argv = [sys.executable, __file__, "--engine", engine, "--only", target, "--inputs", str(inputs)]
            done = subprocess.run([*argv, "--seed", str(given.seed)], stdin=subprocess.DEVNULL, env=environment)
            if done.returncode:
                print(f"{target} by {engine}: FAILED, see above and {scratch}", flush=True)
                return 1
    shutil.rmtree(scratch)
    return 0


def by_hypothesis(target: str, inputs: int, seed: int) -> None:
    """Nearly valid files."""
    import hypothesis

    fuzz = _prepared(target)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=inputs, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(fuzz.target.strategy())
    def every_input(data: bytes) -> None:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            fuzz(data)
        finally:
            faulthandler.cancel_dump_traceback_later()

    every_input()
    _report(fuzz, "hypothesis")


def by_atheris(target: str, inputs: int, seed: int) -> None:
    """Any bytes, led by what they reach in the readers."""
    import atheris

    with atheris.instrument_imports(include=["lfvd", "tune.plan", "yaml"]):
        fuzz = _prepared(target)
    seeds = Path(tempfile.mkdtemp(prefix="seeds-"))
    for i, data in enumerate(fuzz.target.seeds()):
        (seeds / str(i)).write_bytes(data)
    flags = [
        f"-runs={inputs}",
        f"-seed={seed + 1}",
        f"-timeout={SECONDS}",
        "-rss_limit_mb=0",
        "-max_len=8192",
        "-verbosity=0",
    ]

    def one_input(data: bytes) -> None:
        fuzz(data)
        if fuzz.count == inputs:  # atheris ends the process itself
            _report(fuzz, "atheris")

    atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={tempfile.gettempdir()}/{target}-", str(seeds)], one_input)
    atheris.Fuzz()


def _prepared(target: str):
    """The target with everything imported, and 1 GB from here on."""
    from targets import Fuzz

    fuzz = Fuzz(target, Path(tempfile.mkdtemp(prefix="input-")))
    size = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    return fuzz


def _report(fuzz, engine: str) -> None:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    seconds = time.monotonic() - fuzz.began
    print(
        f"{fuzz.target.file} by {engine}: {fuzz.count} inputs, {fuzz.read} read, {seconds:.0f} s, {most} MB", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
