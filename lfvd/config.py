"""The configuration of a run: what is tuned, what is trained, in five small frozen groups.

`Config.from_yaml("meld")` takes a preset's name or a file; `config.with_values({"optim.lr": 1e-4})` gives a changed
copy; `config.to_yaml(path)` writes what `from_yaml` reads. All errors of one source are gathered into one `ConfigError`.
Defaults are the decisions of the project where the paper is silent; the presets hold the paper's settings (§4.3).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from lfvd.files import InputError, read_yaml, write_yaml

Modality = Literal["l", "a", "v"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
MODALITY_NAMES: dict[str, str] = {"l": "language", "a": "audio", "v": "visual"}

PRESETS = Path(__file__).parent / "presets"


class ConfigError(InputError):
    """Bad values of a configuration; the text lists every one with its key, value, rule and remedy."""


@dataclass(frozen=True)
class Range:
    """Closed range of a number; `above` makes the lower end open."""

    low: float
    high: float
    above: bool = False

    def admits(self, value: Any) -> bool:
        """Whether a number lies inside; NaN does not."""
        return bool((self.low < value if self.above else self.low <= value) and value <= self.high)

    def __str__(self) -> str:
        return f"{'above' if self.above else 'at least'} {self.low:g} and at most {self.high:g}"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    modalities: tuple[Modality, ...] = MODALITIES
    """Modalities that the model sees: any non-empty subset of l, a, v (Table 4)."""
    standardise: bool = True
    """Features to mean 0 and deviation 1, by the train split; raw feature scales differ by orders of magnitude."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    width: Annotated[int, Range(2, 4096)] = 256
    """Model width d; even, since each direction of the encoder gives half of it (Eq. 2)."""
    latent: Annotated[int, Range(1, 1024)] = 16
    """Latent width z of the Gaussians (Eq. 12)."""
    heads: Annotated[int, Range(1, 64)] = 4
    """Attention heads (Eqs. 4-9); must divide `width`."""
    dag_layers: Annotated[int, Range(1, 16)] = 2
    """DAG layers L a modality (Eq. 3)."""
    dag_speaker_window: Annotated[int, Range(1, 64)] = 1
    """Predecessors reach back to the speaker's own ω-th last utterance (Eq. 3)."""
    dropout: Annotated[float, Range(0.0, 0.95)] = 0.3
    """Dropout on features, attention blocks and the classifier's input."""
    anchor: Modality = "l"
    """Modality that the others are aligned to and distilled from (Table 5); if absent, the first of l, a, v."""
    attention: bool = True
    """Language-focused augmentation (Eqs. 4-8); false is Table 5's "w/o LFA-Transformer"."""
    atmosphere: bool = True
    """The conversation's atmosphere token t (Eq. 9); false is Table 5's "w/o CEAR". Without attention there is none."""
    atmosphere_scale: Annotated[float, Range(0.0, 1.0)] = 0.1
    """Gain at which t's last LayerNorm starts; at 1, as in a fresh LayerNorm, t drowns what tells utterances apart."""
    fusion: Literal["variational", "add", "concat", "gate"] = "variational"
    """Fusion of the modalities (Eqs. 14-17; Fig. 2's alternatives)."""
    divergence: Literal["mean", "sum"] = "mean"
    """Fusion weights from the divergence averaged or summed over z (Eq. 16); the sum saturates at larger z."""
    detach_teacher: bool = False
    """Stop the gradient of the distillation at the anchor (Eq. 13)."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    gamma1: Annotated[float, Range(0.0, 100.0)] = 1.35e-3
    """Weight γ1 of the cross-modal contrastive loss (Eqs. 10, 21)."""
    gamma2: Annotated[float, Range(0.0, 100.0)] = 5e-3
    """Weight γ2 of the supervised contrastive loss (Eqs. 11, 21)."""
    gamma3: Annotated[float, Range(0.0, 100.0)] = 3e-3
    """Weight γ3 of the variational distillation (Eqs. 13, 21)."""
    temperature: Annotated[float, Range(0.01, 100.0)] = 0.1
    """Temperature τ of both contrastive losses."""
    class_weights: Literal["none", "balanced"] = "none"
    """Cross-entropy weights: none, or inverse to the class frequency in train."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    lr: Annotated[float, Range(0.0, 1.0, above=True)] = 2.5e-4
    """Adam's learning rate."""
    weight_decay: Annotated[float, Range(0.0, 1.0)] = 7e-3
    """L2 penalty, coupled as in Adam (not AdamW)."""
    batch_size: Annotated[int, Range(1, 4096)] = 32
    """Dialogues a batch; with `like_length` on average: as many utterances as so many dialogues have, in short dialogues or long."""
    clip_norm: Annotated[float, Range(0.0, 1e6, above=True)] = 5.0
    """Largest norm of the gradient."""
    like_length: bool = True
    """Batches of dialogues of like length, in random order: less padding. False: any dialogues together."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    epochs: Annotated[int, Range(1, 100_000)] = 80
    """Passes over the train split."""
    patience: Annotated[int, Range(0, 100_000)] = 0
    """Stop after this many epochs without a better validation W-F1; 0: never."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one."""
    threads: Annotated[int, Range(1, 1024)] = 1
    """CPU threads of torch; part of the configuration because the last bits of a result depend on it."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """tf32: a GPU's matrix products in TF32; bf16: mixed precision, all but weights, the DAG's loop and losses in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a training run, except the data and the seed."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        flat = {key: getattr(getattr(self, key.split(".")[0]), key.split(".")[1]) for key in config_specs()}
        problems = [problem for key, spec in config_specs().items() if (problem := spec.problem(flat[key]))]
        problems = problems or self._conflicts()
        if problems:
            raise ConfigError("; ".join(problems))

    def _conflicts(self) -> list[str]:
        """Rules that involve more than one key."""
        problems = []
        width, heads = self.model.width, self.model.heads
        if width % 2:
            problems.append(f"the value of `model.width` is {width}, but must be even: try {width + 1}")
        if width % heads:
            near = sorted((h for h in range(1, 65) if width % h == 0), key=lambda h: abs(h - heads))[:2]
            tries = " or ".join(str(h) for h in sorted(near))
            problems.append(
                f"the value of `model.heads` is {heads}, but must divide `model.width` {width}: try {tries}"
            )
        return problems

    @property
    def anchor(self) -> Modality:
        """The anchor in use: `model.anchor` if it is among the modalities, else the first of l, a, v that is."""
        present = self.data.modalities
        return self.model.anchor if self.model.anchor in present else min(present, key=MODALITIES.index)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Config:
        """Read a preset's name (`meld`, `iemocap`) or a YAML file; a file's `provenance:` is not part of the config.

        Raises ConfigError naming the file and every bad key.
        """
        file = PRESETS / f"{path}.yaml"
        if not file.is_file() or Path(path).is_file():
            file = Path(path)
            if not file.is_file():
                names = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
                raise ConfigError(f"{path}: there is no such file or preset: name a YAML file or one of {names}")
        values = read_yaml(file)
        values.pop("provenance", None)
        return cls.from_dict(values, source=str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> Config:
        """Nested values → Config; missing keys keep their defaults."""
        return cls().with_values(_flatten(values, source), source=source)

    def with_values(self, values: Mapping[str, Any], source: str = "config") -> Config:
        """A copy with dotted keys replaced: `with_values({"optim.lr": 1e-4})`."""
        specs, problems, groups = config_specs(), [], {f.name: dict[str, Any]() for f in dataclasses.fields(self)}
        for key, value in values.items():
            key = str(key)
            if key not in specs:
                problems.append(unknown_key(key, specs))
                continue
            converted = specs[key].convert(value)
            if problem := specs[key].problem(converted):
                problems.append(problem)
            else:
                group, name = key.split(".")
                groups[group][name] = converted
        if problems:
            raise ConfigError(f"{source}: " + "; ".join(problems))
        try:
            return dataclasses.replace(
                self, **{name: dataclasses.replace(getattr(self, name), **new) for name, new in groups.items() if new}
            )
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Nested plain values, in the order of the fields; tuples as lists."""
        plain: dict[str, dict[str, Any]] = dataclasses.asdict(self)
        for group in plain.values():
            group.update({k: list(v) for k, v in group.items() if isinstance(v, tuple)})
        return plain

    def flat(self) -> dict[str, Any]:
        """Dotted keys → values."""
        return {f"{group}.{key}": value for group, keys in self.to_dict().items() for key, value in keys.items()}

    def to_yaml(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write atomically what `from_yaml` reads, with an optional `provenance:` block at the end."""
        extra = {"provenance": dict(provenance)} if provenance is not None else {}
        write_yaml(path, {**self.to_dict(), **extra})


@dataclass(frozen=True)
class FieldSpec:
    """Type and rule of one dotted key."""

    key: str
    kind: type  # bool, int, float, str or tuple
    range: Range | None = None
    choices: tuple[str, ...] = ()

    def convert(self, value: Any) -> Any:
        """YAML 1.1 reads `1e-4` as text and `2` as int: accept both for a float; lists or "l,a" for a tuple."""
        if self.kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            try:
                return float(value)
            except (ValueError, OverflowError):
                return value
        if self.kind is tuple and isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        return tuple(value) if self.kind is tuple and isinstance(value, list) else value

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, as text with rule and remedy; None if nothing."""
        text = f"the value of `{self.key}` is {value!r}, but must be"
        if self.kind is tuple:
            known = isinstance(value, tuple) and value and all(v in self.choices for v in value)
            if not known or len(set(value)) < len(value):
                return f"{text} a list of one or more of {', '.join(self.choices)}, each once"
        elif self.choices:
            if value not in self.choices:
                return f"{text} one of {', '.join(self.choices)}{_nearest(str(value), self.choices, cutoff=0.7)}"
        elif not isinstance(value, int | float if self.kind is float else self.kind) or (
            isinstance(value, bool) and self.kind is not bool
        ):
            return f"{text} {_TYPE_NAMES[self.kind]}"
        elif self.range is not None and not self.range.admits(value):
            return f"{text} {self.range}"
        return None


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@functools.cache
def config_specs() -> dict[str, FieldSpec]:
    """All dotted keys of Config with their type and rule."""
    groups = get_type_hints(Config)
    return {key: spec for group, cls in groups.items() for key, spec in specs_of(cls, group).items()}


def specs_of(cls: type, group: str) -> dict[str, FieldSpec]:
    """Keys `group.field` of a dataclass whose fields are typed as those of this file are."""
    return {
        f"{group}.{name}": _spec(f"{group}.{name}", hint)
        for name, hint in get_type_hints(cls, include_extras=True).items()
    }


def unknown_key(key: str, known: Mapping[str, object]) -> str:
    """The error text for a key that does not exist, with the nearest that does."""
    return f"there is no key `{key}`{_nearest(key, known) or ': known keys are ' + ', '.join(known)}"


def _spec(key: str, hint: Any) -> FieldSpec:
    if get_origin(hint) is Annotated:
        kind, limits = get_args(hint)
        return FieldSpec(key, kind, range=limits)
    if get_origin(hint) is Literal:
        return FieldSpec(key, str, choices=get_args(hint))
    if get_origin(hint) is tuple:
        return FieldSpec(key, tuple, choices=get_args(get_args(hint)[0]))
    return FieldSpec(key, hint)


def _nearest(text: str, known: Any, cutoff: float = 0.5) -> str:
    # A bare last part such as `lr` is as common a slip as a typo.
    same_leaf = [k for k in known if k.split(".")[-1] == text.split(".")[-1]]
    near = same_leaf or difflib.get_close_matches(text, list(known), n=1, cutoff=cutoff)
    return f": did you mean `{near[0]}`?" if near else ""


def _flatten(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    groups = [f.name for f in dataclasses.fields(Config)]
    problems = []
    for group, keys in values.items():
        if group not in groups:
            problems.append(unknown_key(str(group), dict.fromkeys(groups)))
        elif not isinstance(keys, Mapping):
            problems.append(f"the value of `{group}` is {keys!r}, but must be a mapping of its keys")
        else:
            flat.update({f"{group}.{key}": value for key, value in keys.items()})
    if problems:
        raise ConfigError(f"{source}: " + "; ".join(problems))
    return flat
