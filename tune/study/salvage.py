"""What damaged files of lines still tell: lines whose own checksum holds, and confirmed runs that the epochs tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune.formatting import join_first
from tune.study import jsonl
from tune.study.study import OBJECTIVE, Study

Run = tuple[str, int, str]
"""Stage, trial and seed; of the search without a seed."""
Salvaged = tuple[list[bytes], str]
"""The lines of a file, and what to say of them."""


def salvage_lines(text: bytes) -> Salvaged:
    """Lines with a checksum that holds, each once."""
    return list(
        dict.fromkeys(line for line in text.split(b"\n") if jsonl.is_sealed(line))
    ), "; they may have another order"


def salvage_epochs(study: Study, text: bytes, confirmed: bytes) -> Salvaged:
    """Undamaged epochs, those of each run in order; a run that is not over ends before its first gap."""
    lines = salvage_lines(text)[0]
    runs = _by_run(study, lines)
    over = {("search", t.number, ""): t.state.is_finished() for t in study.trials}
    length = {("search", t.number, ""): max(t.intermediate_values, default=0) for t in study.trials}
    for run in map(jsonl.parse, salvage_lines(confirmed)[0]):
        key = (run.get("stage", study.stage), run["trial"], repr(run["seed"]))
        over[key], length[key] = True, run["epochs"]
    kept, gone = dict[int, bytes](), list[str]()
    for key in sorted({*runs, *length}):
        places = runs.get(key, {})
        gaps = [e for e in range(1, max([*places, length.get(key, 0)]) + 1) if e not in places]
        if gaps and not over.get(key):
            places = {epoch: place for epoch, place in places.items() if epoch < gaps[0]}
        # Lines of a run that were swapped: each epoch takes the place of its number among them.
        for slot, epoch in zip(sorted(places.values()), sorted(places), strict=True):
            kept[slot] = lines[places[epoch]]
        if gaps:
            name = f"trial {key[1]}" + (f", seed {key[2]}" if key[2] else "")
            what = f"epoch {join_first([str(e) for e in gaps])}" if over.get(key) else f"all after epoch {gaps[0] - 1}"
            gone.append(f"{what} of {name}")
    sentence = f"; gone: {'; '.join(gone)}" if gone else "; no epoch is gone, but they may have another order"
    return [kept[slot] for slot in sorted(kept)], sentence


def _by_run(study: Study, lines: list[bytes]) -> dict[Run, dict[int, int]]:
    """Run → epoch → index of its line, of trials that the study knows."""
    runs: dict[Run, dict[int, int]] = {}
    for index, record in enumerate(map(jsonl.parse, lines)):
        if record["trial"] in study.numbers:
            seed = "" if record["stage"] == "search" else repr(record["seed"])
            runs.setdefault((record["stage"], record["trial"], seed), {}).setdefault(record["epoch"], index)
    return runs


def salvage_confirmed(study: Study, text: bytes, epochs: bytes, folder: Path) -> Salvaged:
    """Undamaged runs, and those that ended, from all their epochs; their weights, where they are kept, lie in the folder."""
    kept: dict[Run, bytes] = {}
    for line in salvage_lines(text)[0]:
        run = jsonl.parse(line)
        if run["trial"] in study.numbers and run.get("params_hash") == study.params_hash(run["trial"]):
            kept.setdefault((run.get("stage", study.stage), run["trial"], repr(run["seed"])), line)
    lines, rebuilt = salvage_lines(epochs)[0], list[str]()
    for (stage, trial, seed), places in _by_run(study, lines).items():
        records = [jsonl.parse(lines[places[epoch]]) for epoch in sorted(places)]
        key = (stage, trial, seed)
        if stage == "search" or key in kept or not _has_ended(study, trial, records, folder):
            continue
        best = max(records, key=lambda record: float(record["val/wf1"]))
        run = {"trial": trial, "seed": records[0]["seed"], "best_epoch": best["epoch"], "epochs": len(records)}
        run |= {} if stage == study.stage else {"stage": stage}
        run |= {"params_hash": study.params_hash(trial), "seconds": sum(record["seconds"] for record in records)}
        kept[key] = jsonl.dump(run | {k: v for k, v in best.items() if k.startswith("val/")}).encode()
        rebuilt.append(f"trial {trial}, seed {seed}")
    sentence = f"; rebuilt from epochs.jsonl: {'; '.join(rebuilt)}" if rebuilt else ""
    return list(kept.values()), sentence


def _has_ended(study: Study, trial: int, records: list[dict[str, Any]], folder: Path) -> bool:
    """Whether a run has its weights, where they are kept, and all its epochs, or as many without a new best as its patience allows."""
    run = study.config_of(trial).run
    stale = sum(record[OBJECTIVE] == records[-1][OBJECTIVE] for record in records) - 1
    whole = [record["epoch"] for record in records] == list(range(1, len(records) + 1))
    weights = folder / study.paths.weights(trial, records[0]["seed"]).relative_to(study.folder)
    kept = weights.is_file() or records[0]["stage"] != study.stage
    return whole and kept and (len(records) == run.epochs or 0 < run.patience <= stale)
