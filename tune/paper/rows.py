"""Rows of the paper's tables and figures as data: what each changes in a Config, and which a base and a corpus allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lfvd.config import MODALITIES, MODALITY_NAMES, Config
from lfvd.files import InputError

LETTERS = {"l": "T", "a": "A", "v": "V"}
"""The paper's letters of the modalities; it writes them in the order T, A, V."""

BASE: dict[str, Any] = {}
"""The unchanged config, on all modalities of the corpus."""

ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "table2": {"LFVD": BASE},
    "table3": {"LFVD": BASE},
    "table4": {
        "T": {"data.modalities": "l"},
        "V": {"data.modalities": "v"},
        "A": {"data.modalities": "a"},
        "T+V": {"data.modalities": "l,v"},
        "T+A": {"data.modalities": "l,a"},
        "A+V": {"data.modalities": "a,v"},
        "T+A+V": {"data.modalities": "l,a,v"},
    },
    "table5": {
        "ours": BASE,
        "w/o LFA-Transformer": {"model.attention": False},
        "w/o CEAR": {"model.atmosphere": False},
        "w/o DL": {"loss.gamma1": 0.0, "loss.gamma2": 0.0},
        "w/o CMVD": {"model.fusion": "add", "loss.gamma3": 0.0},
        "w/o CMVD-Fusion": {"model.fusion": "add"},
        "w/o CMVD-Distillation": {"loss.gamma3": 0.0},
        "w/ ours(A)": {"model.anchor": "a"},
        "w/ ours(V)": {"model.anchor": "v"},
    },
    "table6": {
        "ours": BASE,
        "w/o L_self": {"loss.gamma1": 0.0},
        "w/o L_full": {"loss.gamma2": 0.0},
        "w/o L_distillation": {"loss.gamma3": 0.0},
        "w/o L_all": {"loss.gamma1": 0.0, "loss.gamma2": 0.0, "loss.gamma3": 0.0},
    },
    "figure2": {kind: {"model.fusion": kind} for kind in ("variational", "add", "concat", "gate")},
    "figure3": {"LFVD": BASE},
    "figure4": {"LFVD": BASE},
}
"""Part of the paper → its rows by their published names → keys of Config."""

REFERENCE = {"table4": "T+A+V", "table5": "ours", "table6": "ours"}
"""The row that the others of an ablation table are compared with."""

ONLY = {"table2": "iemocap", "table3": "meld"}
"""Parts that are about one corpus."""


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row that can be trained."""

    part: str
    """Its table or figure, a key of ROWS."""
    name: str
    """Its published name."""
    values: dict[str, Any]
    """Keys of Config that make it from the base."""


def parts_of(tables: str, figures: str) -> list[str]:
    """Parts from lists of numbers as a command line has them, `2,3` and ``. Raises InputError for others than ROWS has."""
    found = []
    for kind, text in (("table", tables), ("figure", figures)):
        known = [part.removeprefix(kind) for part in ROWS if part.startswith(kind)]
        for number in [each.strip() for each in text.split(",") if each.strip()]:
            if number not in known:
                raise InputError(
                    f"--{kind}s {text}: there is no {kind} {number!r} to reproduce: name some of {','.join(known)}"
                )
            found.append(kind + number)
    if not found:
        raise InputError("--tables and --figures name nothing: name some, such as --tables 4,5,6")
    return found


def part_title(part: str) -> str:
    """`Table 4` for table4."""
    return f"{part[:-1].capitalize()} {part[-1]}"


def modality_code(modalities: Sequence[str]) -> str:
    """`T+A+V`."""
    return "+".join(LETTERS[m] for m in MODALITIES if m in modalities)


def select_rows(
    parts: Sequence[str], base: Config, present: Sequence[str], dataset: str
) -> tuple[list[PaperRow], list[str]]:
    """Rows of parts that can be trained, and a sentence for each other one.

    present: the corpus's modalities. Left out are rows without theirs, tables of the other corpus, and rows that equal an
    earlier one of their part, because the base or the modalities leave nothing to take away.
    """
    rows: list[PaperRow] = []
    left_out: list[str] = []
    for part in parts:
        if ONLY.get(part, dataset) != dataset:
            left_out.append(f"{part_title(part)}: is of {ONLY[part].upper()}, the data are {dataset.upper()}")
            continue
        kept: dict[Config, str] = {}
        for name, changes in ROWS[part].items():
            values = {"data.modalities": ",".join(present), **changes}
            config = base.with_values(values)
            canonical, row = canonical_config(config), f"{part_title(part)}, {name}"
            if missing := [MODALITY_NAMES[m] for m in config.data.modalities if m not in present]:
                left_out.append(f"{row}: the data hold no {' and no '.join(missing)} features")
            elif canonical in kept:
                same = f"{kept[canonical]} with this config on {modality_code(present)}"
                left_out.append(f"{row}: is the same as {same}")
            else:
                kept[canonical] = name
                rows.append(PaperRow(part=part, name=name, values=values))
    return rows, left_out


def canonical_config(config: Config) -> Config:
    """The same for all configs that train the same model: values that the model does not read are reset."""
    values: dict[str, Any] = {"model.anchor": config.anchor}
    values["data.modalities"] = [m for m in MODALITIES if m in config.data.modalities]
    if len(config.data.modalities) == 1:  # nothing to fuse, nothing to contrast across; concat and gate only add a map
        values |= {"model.fusion": "add", "loss.gamma1": 0.0}
    if not config.model.attention:
        values["model.atmosphere"] = False
    return config.with_values(values)
