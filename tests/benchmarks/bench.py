"""All benchmarks: prints one table, writes results/benchmarks.json. `make bench`, or some: `python tests/benchmarks/bench.py dag epoch`.

Each part runs in a process of its own, with nothing else at work beside it; parts that are not run keep what the file says.
The part `search` replays recorded curves (tests/benchmarks/curves.py) and trains nothing. 25 minutes in all on two cores.
Memory is read from Linux's /proc. Commit first: what is measured names its commit, with a + where files differ from it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lfvd.files import atomic_path
from lfvd.training.environment import run_info

FILE = Path(__file__).parents[2] / "results" / "benchmarks.json"
PARTS = {
    "dag": "dag.py",
    "epoch": "epoch.py",
    "overhead": "overhead.py",
    "commands": "commands.py",
    "memory": "memory.py",
    "search": "efficiency.py",
}
GOALS = {
    "dag/16x60x4x300/wall_ratio": "at least 6",
    "dag/16x60x4x300/launch_ratio": "at least 20",
    "dag/32x24x2x300/wall_ratio": "at least 3",
    "dag/32x24x2x300/launch_ratio": "at least 10",
    "epoch/meld language/wall_ratio": "at least 3",
    "epoch/meld/wall_ratio": "at least 3",
    "epoch/iemocap/wall_ratio": "at least 3",
    "overhead/ratio": "at most 1.15",
    "commands/lfvd --help": "at most 0.5 s",
    "commands/lfvd-tune --help": "at most 0.5 s",
    "commands/lfvd-tune status, 1,000 trials": "at most 1.5 s",
    "commands/first epoch of a search": "at most 10 s",
}
"""What was aimed at; the rest is for information."""


def run(part: str) -> dict[str, Any]:
    """One part, with the machine and versions that measured it."""
    argv, load = [sys.executable, str(Path(__file__).with_name(PARTS[part]))], os.getloadavg()[0]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    info = run_info("cuda" if found.get("device") == "cuda" else "cpu")
    machine = {"device": info["device"], "processor": platform.machine(), "load before": round(load, 2)}
    return {**found, "measured": {"commit": info["commit"], "versions": info["versions"], "machine": machine}}


def leaves(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number with its path, a/b/c."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}/")
        elif not isinstance(value, list):
            yield f"{path}{key}", value


def show(found: dict[str, Any]) -> None:
    """The table: what has a goal first, then the rest."""
    rows = {key: value for key, value in leaves(found) if "/measured/" not in key}
    table = Table("what", "measured", "goal", box=None)
    for key in [*(key for key in GOALS if key in rows), *(key for key in rows if key not in GOALS)]:
        table.add_row(key, str(rows[key]), GOALS.get(key, ""))
    for row in found.get("search", {}).get("against random search", []):
        sides = [
            f"{row[side]['mean']} ± {row[side]['std']} after {row[side]['epochs']} epochs"
            for side in ("search", "random")
        ]
        table.add_row(f"search/against random search/{row['repetition']}", f"{sides[0]}; {sides[1]}", "not below it")
    Console(width=max(100, Console().width)).print(table)


def main(parts: list[str]) -> None:
    """Measure, write, print."""
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    for part in parts or PARTS:
        print(f"{part} …", file=sys.stderr, flush=True)
        found[part] = run(part)
        with atomic_path(FILE) as temporary:
            temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    show(found)


if __name__ == "__main__":
    main(sys.argv[1:])
