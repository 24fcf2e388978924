"""A study of rows instead of trials: each row of the paper's tables on the same seeds, in a folder like a search's.

`trial` in its files is a row's number; row 0 is the unchanged config. Rows that train the same model share a number. More tables
add rows and keep the numbers of those that are there.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from lfvd.config import MODALITIES, PRESETS, Config
from lfvd.files import read_yaml
from tune.paper.rows import ROWS, PaperRow, canonical_config, select_rows
from tune.plan import SHIPPED, SearchPlan
from tune.published import dataset_of
from tune.sections import AUTO, ConfirmPlan, ResourcesPlan, SchedulerPlan
from tune.study import checkpoints
from tune.study.plan_file import DataSource, StudyError, holds_rows, load_plan, read_frozen
from tune.study.study import Study

if TYPE_CHECKING:
    from lfvd.data.corpus import Corpus

MOST = sum(len(rows) for rows in ROWS.values())
"""Rows that there can be; by it the room on disk is judged."""


class Grid(Study):
    """An open study of rows."""

    stage = "experiment"
    kind = "row"
    work = "rows of tables"
    artifacts = ("tables.md", "table*.csv", "figure*.csv", "figure*.png")

    @classmethod
    def open(cls, folder: Path) -> Grid:
        """Open what is there. Raises StudyError where nothing is, or a search."""
        return cls(folder, *load_plan(folder, grid_plan))

    @property
    def began(self) -> datetime | None:
        """When the first row began."""
        begun = (self.folder / "epochs.jsonl").is_file()
        return datetime.fromisoformat(self.info["started"]) if begun else None

    @property
    def parts(self) -> list[str]:
        """Tables and figures asked for so far, in the paper's order."""
        return [part for part in ROWS if part in self.plan.source["parts"]]

    @property
    def numbers(self) -> range:
        """All rows."""
        return range(len(self.plan.source["rows"]))

    def name_of(self, trial: int) -> str:
        """The name of a row, as the first table has it that asked for it."""
        return str(self.plan.source["rows"][trial]["name"])

    def params_of(self, trial: int) -> dict[str, Any]:
        """Keys of Config that make a row from the base."""
        return dict(self.plan.source["rows"][trial]["values"])

    def selected(self) -> tuple[list[PaperRow], list[str]]:
        """Rows of all parts, and a sentence for each that is left out."""
        present = self.plan.config.data.modalities
        return select_rows(self.parts, self.plan.config, present, dataset_of(self.data.name))

    def number(self, row: PaperRow) -> int:
        """The number under which a row is trained."""
        return self._numbers_of[canonical_config(self.plan.config_of(row.values))]

    @functools.cached_property
    def _numbers_of(self) -> dict[Config, int]:
        return {canonical_config(self.config_of(n)): n for n in self.numbers}


def is_grid(folder: Path) -> bool:
    """Whether a study's folder holds rows of tables."""
    return (folder / "plan.yaml").is_file() and holds_rows(read_frozen(folder))


def grid_plan(values: Mapping[str, Any], *, source: str, folder: Path, config: Config) -> SearchPlan:
    """What plan.yaml holds of a grid → a plan that trains each row to the end on all seeds, and searches nothing."""
    if "rows" not in values:
        raise StudyError("holds a search, no rows of tables: choose another --name")
    resources = {k: v for k, v in values["resources"].items() if (k, v) != ("gpu", AUTO)}
    return SearchPlan(
        base=values["base"],
        space={},
        trials=0,
        scheduler=SchedulerPlan(kind="none", max_epochs=config.run.epochs),
        resources=ResourcesPlan(**resources),
        confirm=ConfirmPlan(finalists=MOST, folds=0, seeds=tuple(values["confirm"]["seeds"]), race=False),
        config=config,
        source=dict(values),
    )


def asked_grid(folder: Path) -> tuple[SearchPlan, DataSource]:
    """What a grid's plan.yaml asks, and of which data; its journals are not read."""
    plan, data, _ = load_plan(folder, grid_plan)
    return plan, data


def read_base(name: str) -> SearchPlan:
    """A plan file, a Config file, or the name of a preset or of a shipped plan → a grid's plan without rows yet.

    Of a plan its base config, length, resources and seeds are used; a Config brings its own length and threads, and takes
    seeds 0 to 4 and, unless it asks for the CPU, the GPUs that are there. Raises InputError for anything else.
    """
    if Path(name).is_file():
        is_plan = "space" in read_yaml(name)
    else:  # `meld` is both: the preset is what the paper's tables were made with
        is_plan = (SHIPPED / f"{name}.yaml").is_file() and not (PRESETS / f"{name}.yaml").is_file()
    if is_plan:
        read = SearchPlan.from_yaml(name)
        config, seeds, resources = read.config, read.confirm.seeds, dict(read.source.get("resources") or {})
    else:
        config, seeds = Config.from_yaml(name), ConfirmPlan().seeds
        resources = {"cpu": config.run.threads, "gpu": 0 if config.run.device == "cpu" else AUTO}
    values = {"base": name, "resources": resources, "confirm": {"seeds": list(seeds)}, "parts": [], "rows": []}
    return grid_plan(values, source=name, folder=Path(), config=config)


def extended(plan: SearchPlan, parts: Sequence[str], corpus: Corpus) -> SearchPlan:
    """The plan on all modalities that the corpus has, with the rows of more parts; what it holds keeps its place.

    Raises CorpusError where the corpus lacks a split, InputError where the paper has no tables of it.
    """
    from lfvd.training.trainer import check_fit

    present = tuple(m for m in MODALITIES if m in corpus.features)
    config = plan.config.with_values({"data.modalities": present})
    check_fit(config, corpus)
    rows, _ = select_rows([part for part in ROWS if part in parts], config, present, dataset_of(corpus.info.name))
    held = list(plan.source["rows"]) or [{"name": "ours", "values": {"data.modalities": ",".join(present)}}]
    known = {canonical_config(config.with_values(row["values"])) for row in held}
    for row in rows:
        if (same := canonical_config(config.with_values(row.values))) not in known:
            known.add(same)
            held.append({"name": row.name, "values": row.values})
    everything = [part for part in ROWS if part in {*plan.source["parts"], *parts}]
    return replace(plan, config=config, source={**plan.source, "parts": everything, "rows": held})


def start_grid(
    folder: Path, plan: SearchPlan, parts: Sequence[str], *, corpus: Corpus, data: str | Path, storage: str | None
) -> Grid:
    """Begin a grid, or go on with the one that is there, with these parts added to it.

    Raises StudyError where the one there has another base, other data or other seeds, saying in what they differ.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if (folder / "plan.yaml").is_file():
        held = Grid.open(folder).plan.source
        plan = replace(plan, source={**plan.source, "parts": held["parts"], "rows": held["rows"]})
    from lfvd.training.environment import run_info

    info = run_info(plan.config.run.device) | ({"storage": checkpoints.parse(storage)} if storage else {})
    info["started"] = datetime.now().astimezone().isoformat(timespec="seconds")
    return Grid.start(folder, extended(plan, parts, corpus), DataSource.of(corpus, data), info)
