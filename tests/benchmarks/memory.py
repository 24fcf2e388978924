"""Memory of a search with ten concurrent trials on one full-size corpus: `python tests/benchmarks/memory.py`.

Proportional set sizes, in which a page that k processes share counts 1/k in each: what a machine really holds. Linux only.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import turns  # noqa: F401 (finds the tests' helpers)
import yaml

# isort: split
from lfvd.data.simulate import simulate
from lfvd.files import read_yaml
from tests.helpers.clusters import own_cluster

BIN = Path(sys.executable).parent
TRIALS = 10
ROOT = Path(__file__).parents[2]


def family(pid: int) -> dict[int, str]:
    """A process and all that it started → what each is."""
    parent, title = {}, {}
    for place in Path("/proc").iterdir():
        try:
            status = (place / "status").read_text()
            title[int(place.name)] = (place / "cmdline").read_text().replace("\0", " ").strip()
            parent[int(place.name)] = int(
                next(line for line in status.splitlines() if line.startswith("PPid")).split()[1]
            )
        except (OSError, ValueError):  # no process, or it has ended
            continue
    found = {pid}
    while more := {child for child, of in parent.items() if of in found} - found:
        found |= more
    return {member: title[member] for member in found}


def kind(pid: int, title: str, driver: int) -> str:
    """Driver, trial, or Ray's own."""
    if pid == driver:
        return "driver"
    return "trial" if "ImplicitFunc" in title else "ray"


def trials(epochs: Path) -> int:
    """Trials that have an epoch."""
    return len({json.loads(line)["trial"] for line in epochs.read_text().splitlines()})


def sizes(pid: int) -> dict[str, float]:
    """MB: proportional in all, and what of it lies in memory shared between processes, such as the object store."""
    rows = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return {key: int(rows[key].split()[0]) / 1024 for key in ("Pss", "Pss_Shmem", "Rss")}


def measure() -> dict[str, Any]:
    """The part `memory` of results/benchmarks.json, in MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "meld.safetensors"
        simulate(like="meld", seed=0).save(corpus)
        values = read_yaml(ROOT / "search_spaces" / "demo.yaml")
        values |= {
            "trials": TRIALS,
            "resources": {"cpu": 1},
            "scheduler": {"kind": "none", "max_epochs": 50},
        }
        (folder / "plan.yaml").write_text(yaml.safe_dump(values))
        with own_cluster(cpus=TRIALS) as (address, head):
            argv = [
                BIN / "lfvd-tune",
                "search",
                folder / "plan.yaml",
                "--data",
                corpus,
                "--name",
                "ten",
                "--results",
                folder,
            ]
            argv += ["--address", address]
            driver = subprocess.Popen(list(map(str, argv)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                epochs = folder / "ten" / "epochs.jsonl"
                while not epochs.exists() or trials(epochs) < TRIALS:
                    assert driver.poll() is None, f"the search ended with exit code {driver.returncode}"
                    time.sleep(1)
                found: dict[str, list[dict[str, float]]] = {"driver": [], "ray": [], "trial": []}
                for pid, title in {**family(driver.pid), **family(head)}.items():
                    found[kind(pid, title, driver.pid)].append(sizes(pid))
            finally:
                os.kill(driver.pid, signal.SIGINT)
                driver.wait(300)
        each = [row["Pss"] for row in found["trial"]]
        return {
            "corpus": round(corpus.stat().st_size / 2**20),
            "trials": len(each),
            "driver": round(found["driver"][0]["Pss"]),
            "Ray's own processes together": round(sum(row["Pss"] for row in found["ray"])),
            "a trial": {"median": round(statistics.median(each)), "most": round(max(each))},
            "of that shared, all trials together": round(sum(row["Pss_Shmem"] for row in found["trial"])),
            "a trial, resident": round(statistics.median(row["Rss"] for row in found["trial"])),
            "all together": round(sum(row["Pss"] for rows in found.values() for row in rows)),
        }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
