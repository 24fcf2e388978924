"""A long fuzz run: `python tests/fuzz/run.py --inputs 200000` (`make fuzz`).

Each target has a quarter of the inputs: nearly valid files, made by hypothesis. An input that is not read or refused as it
must be, takes over 10 s or over 1 GB ends the run with exit 1 and is printed.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

SECONDS = 10
MEMORY = 2**30
TARGETS = ("pickle", "json", "safetensors", "yaml")


def main() -> int:
    """All targets one after another, each in a process of its own; prints a line a target."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TARGETS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        fuzz(given.only, given.inputs, given.seed)
        return 0
    targets = [given.only] if given.only else TARGETS
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:
        for target in targets:
            options = {"--only": target, "--inputs": given.inputs // len(targets), "--seed": given.seed}
            argv = [sys.executable, __file__, "--here", *(str(part) for pair in options.items() for part in pair)]
            if subprocess.run(argv, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": scratch}).returncode:
                print(f"{target}: FAILED, see above", flush=True)
                return 1
    return 0


def fuzz(name: str, inputs: int, seed: int) -> None:
    """One target, with everything imported, and 1 GB from there on."""
    import hypothesis
    from targets import Fuzz

    target = Fuzz(name, Path(tempfile.mkdtemp(prefix="input-")))
    size = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    began = time.monotonic()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=inputs, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(target.strategy())
    def every_input(data: bytes) -> None:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            target(data)
        finally:
            faulthandler.cancel_dump_traceback_later()

    every_input()
    seconds, most = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{target.file}: {target.count} inputs, {target.read} read, {seconds:.0f} s, {most} MB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
