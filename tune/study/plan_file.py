"""`plan.yaml`: what a study was asked to do, on which data, and by which versions; frozen when the study begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfvd.config import Config
from lfvd.files import InputError, read_yaml
from tune.plan import SearchPlan
from tune.study import checksums

if TYPE_CHECKING:  # torch, whose import would make `status` slow
    from lfvd.data.corpus import Corpus

MAY_DIFFER = ("trials", "budget", "resources.max_concurrent", "resources.epoch_timeout")
"""Parts of a plan that a study may continue with after a change: how much, not what."""


class StudyError(InputError):
    """A study that does not exist, or is not the one asked for."""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Which data a study belongs to."""

    path: str
    name: str
    fingerprint: str
    simulated: tuple[str, ...]

    @property
    def title(self) -> str:
        """`MELD; SIMULATED: audio, visual`."""
        return self.name + (f"; SIMULATED: {', '.join(self.simulated)}" if self.simulated else "")

    @classmethod
    def of(cls, corpus: Corpus, path: str | Path) -> DataSource:
        """A corpus and where it was read from."""
        info = corpus.info
        return cls(
            path=str(Path(path).absolute()), name=info.name, fingerprint=corpus.fingerprint, simulated=info.simulated
        )


def freeze(plan: SearchPlan, data: DataSource, info: Mapping[str, Any]) -> dict[str, Any]:
    """The content of plan.yaml."""
    return {
        "plan": plan.frozen(),
        "config": plan.config.to_dict(),
        "data": {**vars(data), "simulated": list(data.simulated)},
        "info": dict(info),
    }


def load_plan(
    folder: Path, read: Callable[..., SearchPlan] | None = None
) -> tuple[SearchPlan, DataSource, dict[str, Any]]:
    """A study's plan, its data, and versions and commit of its start; `read` in place of SearchPlan.from_dict.

    Raises StudyError where there is no plan.yaml, or one of another kind, DamagedError where it is not what was written.
    """
    if not (folder / "plan.yaml").is_file():
        if (folder / checksums.NAME).is_file():
            raise checksums.damaged(folder / "plan.yaml", "is missing")
        near = sorted(p.parent.name for p in folder.parent.glob("*/plan.yaml"))
        there = f"there are {', '.join(near)}" if near else "there is none yet: start one with `lfvd-tune search`"
        raise StudyError(f"{folder}: there is no such study: {there}")
    frozen = read_frozen(folder)
    if read is None and holds_rows(frozen):
        raise StudyError(f"{folder}: holds rows of the paper's tables, no search: go on with `lfvd-tune reproduce`")
    read = read or SearchPlan.from_dict
    try:
        config = Config.from_dict(frozen["config"], source="config")
        data = DataSource(**{**frozen["data"], "simulated": tuple(frozen["data"]["simulated"])})
        # A study whose plan names no folds began when there were none.
        asked = {**frozen["plan"], "confirm": {"folds": 0, **frozen["plan"]["confirm"]}}
        plan = read(asked, source="plan", folder=folder, config=config)
    except StudyError as error:
        raise StudyError(f"{folder}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StudyError(f"{folder / 'plan.yaml'}: is damaged ({error}): restore it, or start another study") from None
    return plan, data, frozen.get("info") or {}


def read_frozen(folder: Path) -> dict[str, Any]:
    """The content of plan.yaml. Raises DamagedError where it is not what was written."""
    path = folder / "plan.yaml"
    while True:
        before = path.read_bytes()
        try:
            frozen = read_yaml(path)
            checksums.check_plan(folder, frozen)
            return frozen
        except InputError as error:
            if path.read_bytes() == before:  # else a session wrote another one meanwhile
                if isinstance(error, checksums.DamagedError):
                    raise
                what = str(error).removeprefix(f"{path}: ").partition(": ")[0]
                raise checksums.damaged(path, f"is damaged ({what})") from None


def holds_rows(frozen: Mapping[str, Any]) -> bool:
    """Whether the content of a plan.yaml is of rows of tables (tune.paper.grid), not of a search."""
    plan = frozen.get("plan")
    return isinstance(plan, Mapping) and "rows" in plan


def differences(old: SearchPlan, new: SearchPlan) -> list[str]:
    """Keys in which two plans, or their base configs, differ beyond MAY_DIFFER, each with both values."""
    before, after = _flat(old), _flat(new)
    keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    return [f"`{k}` ({before.get(k)} there, {after.get(k)} here)" for k in keys if not k.startswith(MAY_DIFFER)]


def _flat(plan: SearchPlan) -> dict[str, Any]:
    sections = {
        f"{name}.{key}": value
        for name in ("sampler", "scheduler", "resources", "budget", "confirm")
        for key, value in vars(getattr(plan, name)).items()
    }
    return {**plan.config.flat(), **{f"space.{k}": v.distribution for k, v in plan.space.items()}, **sections}
