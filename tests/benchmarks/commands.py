"""What a user waits for: help, status of a large study, a search's first epoch: `python tests/benchmarks/commands.py`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from turns import RUNS, median, turns

# isort: split
from lfvd.data.simulate import simulate
from tests.helpers import invented

BIN = Path(sys.executable).parent
TRIALS = 1_000
ROOT = Path(__file__).parents[2]


def command(*argv: str | Path) -> None:
    """Run it, as a user would."""
    subprocess.run([str(BIN / argv[0]), *map(str, argv[1:])], check=True, stdout=subprocess.DEVNULL)


def first_epoch(folder: Path) -> float:
    """Seconds from the command to the first line of epochs.jsonl; then the search is ended by Ctrl-C."""
    simulate(like="meld", seed=0, dialogues=160).save(folder / "demo.safetensors")
    plan = ROOT / "search_spaces" / "demo.yaml"
    name = f"first{time.monotonic_ns()}"
    argv = [
        BIN / "lfvd-tune",
        "search",
        plan,
        "--data",
        folder / "demo.safetensors",
        "--name",
        name,
        "--results",
        folder,
    ]
    start = time.perf_counter()
    driver = subprocess.Popen(list(map(str, argv)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    epochs = folder / name / "epochs.jsonl"
    try:
        while not epochs.exists() or not epochs.stat().st_size:
            assert driver.poll() is None, f"the search ended with exit code {driver.returncode}"
            time.sleep(0.05)
        return time.perf_counter() - start
    finally:
        driver.send_signal(signal.SIGINT)
        driver.wait(120)


def measure() -> dict[str, Any]:
    """The part `commands` of results/benchmarks.json, in seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        invented.search(invented.begin(folder / "large", trials=TRIALS, sampler={"kind": "random", "seed": 0}))
        sides = {
            "lfvd --help": lambda: command("lfvd", "--help"),
            "lfvd-tune --help": lambda: command("lfvd-tune", "--help"),
            f"lfvd-tune status, {TRIALS:,} trials": lambda: command(
                "lfvd-tune", "status", "large", "--results", folder
            ),
        }
        found = {side: median(times) for side, times in turns(sides).items()}
        first_epoch(folder)  # warms the disk
        return {**found, "first epoch of a search": median([first_epoch(folder) for _ in range(RUNS)])}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
