"""What a run's folder holds, in forms that tests compare."""

import csv
import json
from pathlib import Path

from safetensors import safe_open

from lfvd.training.runs import read_epochs


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path → content of every file."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def comparable(folder: Path) -> dict[str, object]:
    """Contents without what may differ between equal runs: seconds, run_info, figures, and checkpoints, which hold seconds."""
    found: dict[str, object] = {}
    for name, content in contents(folder).items():
        if name.endswith("jsonl"):
            found[name] = [{**r, "seconds": 0} for r in read_epochs(folder / name)]
        elif name.endswith("model.safetensors"):
            with safe_open(folder / name, framework="np") as file:
                header = json.loads(file.metadata()["lfvd-model"])
                tensors = {k: file.get_tensor(k).tobytes() for k in file.keys()}  # noqa: SIM118
            header["result"].pop("run")
            found[name] = header, tensors
        elif name == "result.json":
            found[name] = json.loads(content)
            for each in found[name]["seeds"].values():
                each.pop("run")
        elif not name.endswith(("checkpoint.pt", "png")):
            found[name] = content
    return found


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file by column."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
