"""The configuration of a run: what is tuned and what is trained, in five small frozen groups.

`Config.from_yaml("meld")` takes a preset's name or a file; `config.with_values({"optim.lr": 1e-4})` gives a changed
copy; `config.to_yaml(path)` writes what `from_yaml` reads. All errors of one source are gathered into one `ConfigError`.
Defaults are the decisions of the project where the paper is silent; the presets hold the paper's settings (§4.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from lfvd.files import InputError, read_yaml, write_yaml
from lfvd.schema import CHECKED, NUMBER, Switch, Whole, key_schemas, replace_old_keys, sentences, unknown_key

Modality = Literal["l", "a", "v"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
MODALITY_NAMES: dict[str, str] = {"l": "language", "a": "audio", "v": "visual"}

PRESETS = Path(__file__).parent / "presets"

OLD_KEYS: dict[str, str | None] = {}
"""Key of an older version → today's key; None: it has no effect any more."""


class ConfigError(InputError):
    """Bad values of a configuration; the text lists every one with its key, value, rule and remedy."""


def _as_modalities(value: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    known = isinstance(value, list | tuple) and value and all(v in MODALITIES for v in value)
    if not known or len(set(value)) < len(value):
        raise ValueError(f"must be a list of one or more of {', '.join(MODALITIES)}, each once")
    return tuple(value)


_MODALITIES = Field(
    json_schema_extra={"type": ["array", "string"], "minItems": 1, "uniqueItems": True, "pattern": "^[lav](, ?[lav])*$"}
)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class DataConfig:
    modalities: Annotated[tuple[Modality, ...], BeforeValidator(_as_modalities), _MODALITIES] = MODALITIES
    """Modalities that the model sees: any non-empty subset of l, a, v (Table 4)."""
    standardise: Switch = True
    """Features to mean 0 and deviation 1, by the train split; raw feature scales differ by orders of magnitude."""


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class ModelConfig:
    width: Annotated[Whole, Field(ge=2, le=4096)] = 256
    """Model width d; even, since each direction of the encoder gives half of it (Eq. 2)."""
    latent: Annotated[Whole, Field(ge=1, le=1024)] = 16
    """Latent width z of the Gaussians (Eq. 12)."""
    heads: Annotated[Whole, Field(ge=1, le=64)] = 4
    """Attention heads (Eqs. 4-9); must divide `width`."""
    dag_layers: Annotated[Whole, Field(ge=1, le=16)] = 2
    """DAG layers L for each modality (Eq. 3)."""
    dag_speaker_window: Annotated[Whole, Field(ge=1, le=64)] = 1
    """Predecessors reach back to the speaker's own ω-th last utterance (Eq. 3)."""
    dropout: Annotated[float, Field(ge=0, le=0.95), NUMBER] = 0.3
    """Dropout on features, attention blocks and the classifier's input."""
    anchor: Modality = "l"
    """Modality that the others are aligned to and distilled from (Table 5); if absent, the first of l, a, v."""
    attention: Switch = True
    """Language-focused augmentation (Eqs. 4-8); false is Table 5's "w/o LFA-Transformer"."""
    atmosphere: Switch = True
    """The conversation's atmosphere token t (Eq. 9); false is Table 5's "w/o CEAR". Without attention there is none."""
    atmosphere_scale: Annotated[float, Field(ge=0, le=1), NUMBER] = 0.1
    """Initial gain of t's last LayerNorm; at 1, as in a fresh LayerNorm, t hides the differences between utterances."""
    fusion: Literal["variational", "add", "concat", "gate"] = "variational"
    """Fusion of the modalities (Eqs. 14-17; Fig. 2's alternatives)."""
    divergence: Literal["mean", "sum"] = "mean"
    """Fusion weights from the divergence averaged or summed over z (Eq. 16); the sum saturates at larger z."""
    detach_teacher: Switch = False
    """Stop the gradient of the distillation at the anchor (Eq. 13)."""


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class LossConfig:
    gamma1: Annotated[float, Field(ge=0, le=100), NUMBER] = 1.35e-3
    """Weight γ1 of the cross-modal contrastive loss (Eqs. 10, 21)."""
    gamma2: Annotated[float, Field(ge=0, le=100), NUMBER] = 5e-3
    """Weight γ2 of the supervised contrastive loss (Eqs. 11, 21)."""
    gamma3: Annotated[float, Field(ge=0, le=100), NUMBER] = 3e-3
    """Weight γ3 of the variational distillation (Eqs. 13, 21)."""
    temperature: Annotated[float, Field(ge=0.01, le=100), NUMBER] = 0.1
    """Temperature τ of both contrastive losses."""
    class_weights: Literal["none", "balanced"] = "none"
    """Cross-entropy weights: none, or inverse to the class frequency in train."""


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class OptimConfig:
    lr: Annotated[float, Field(gt=0, le=1), NUMBER] = 2.5e-4
    """Adam's learning rate."""
    weight_decay: Annotated[float, Field(ge=0, le=1), NUMBER] = 7e-3
    """L2 penalty, coupled as in Adam (not AdamW)."""
    batch_size: Annotated[Whole, Field(ge=1, le=4096)] = 32
    """Dialogues in a batch; with `like_length` on average: a batch has the utterances of that many average dialogues."""
    clip_norm: Annotated[float, Field(gt=0, le=1e6), NUMBER] = 5.0
    """Largest norm of the gradient."""
    like_length: Switch = True
    """Batches of dialogues of like length, in random order: less padding. False: any dialogues together."""


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class RunConfig:
    epochs: Annotated[Whole, Field(ge=1, le=100_000)] = 80
    """Passes over the train split."""
    patience: Annotated[Whole, Field(ge=0, le=100_000)] = 0
    """Stop after this many epochs without a better validation W-F1; 0: never."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one."""
    threads: Annotated[Whole, Field(ge=1, le=1024)] = 1
    """CPU threads of torch; part of the configuration because the last bits of a result depend on it."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """tf32: a GPU's matrix products in TF32; bf16: mixed precision, all but weights, the DAG's loop and losses in bfloat16."""


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Config:
    """Everything that decides a training run, except the data and the seed."""

    data: DataConfig = DataConfig()
    """Input of the model."""
    model: ModelConfig = ModelConfig()
    """Architecture."""
    loss: LossConfig = LossConfig()
    """Terms of the loss (Eq. 21)."""
    optim: OptimConfig = OptimConfig()
    """Optimiser and batches."""
    run: RunConfig = RunConfig()
    """Length and machine."""

    @model_validator(mode="after")
    def _check_width(self) -> Config:
        problems, width, heads = [], self.model.width, self.model.heads
        if width % 2:
            problems.append(f"the value of `model.width` is {width}, but must be even: try {width + 1}")
        if width % heads:
            near = sorted((h for h in range(1, 65) if width % h == 0), key=lambda h: abs(h - heads))[:2]
            tries = " or ".join(str(h) for h in sorted(near))
            problems.append(
                f"the value of `model.heads` is {heads}, but must divide `model.width` {width}: try {tries}"
            )
        if problems:
            raise InputError("; ".join(problems))
        return self

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
        """Nested values → Config; missing keys keep their defaults. Raises ConfigError naming `source` and every bad key."""
        return cls()._changed(values, source, [])

    def with_values(self, values: Mapping[str, Any], source: str = "config") -> Config:
        """A copy with dotted keys replaced: `with_values({"optim.lr": 1e-4})`. Raises ConfigError as `from_dict` does."""
        nested, problems = dict[str, dict[str, Any]](), list[str]()
        for key, value in values.items():
            group, _, name = str(key).partition(".")
            if key in config_keys() or key in OLD_KEYS:
                nested.setdefault(group, {})[name] = value
            else:
                problems.append(unknown_key(str(key), config_keys()))
        return self._changed(nested, source, problems)

    def _changed(self, values: Mapping[str, Any], source: str, problems: list[str]) -> Config:
        nested: dict[str, Any] = dict(vars(self))
        for group, keys in replace_old_keys(values, OLD_KEYS, source).items():
            known = isinstance(keys, Mapping) and group in nested
            nested[group] = {**vars(nested[group]), **keys} if known else keys
        try:
            config = TypeAdapter(Config).validate_python(nested)
        except ValidationError as error:
            problems += sentences(error, Config)
        if problems:
            raise ConfigError(f"{source}: " + "; ".join(problems))
        return config

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Nested plain values, in the order of the fields; tuples as lists."""
        plain: dict[str, dict[str, Any]] = {group: dict(vars(keys)) for group, keys in vars(self).items()}
        plain["data"]["modalities"] = list(self.data.modalities)
        return plain

    def flat(self) -> dict[str, Any]:
        """Dotted keys → values."""
        return {f"{group}.{key}": value for group, keys in self.to_dict().items() for key, value in keys.items()}

    def to_yaml(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write atomically what `from_yaml` reads, with an optional `provenance:` block at the end."""
        extra = {"provenance": dict(provenance)} if provenance is not None else {}
        write_yaml(path, {**self.to_dict(), **extra})


def checked_value(key: str, value: Any, source: str) -> Any:
    """A value of one dotted key, of the field's type; rules that involve other keys are not asked. Raises ConfigError."""
    group, _, name = key.partition(".")
    try:
        return getattr(type(getattr(Config(), group))(**{name: value}), name)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(sentences(error, Config, group))) from None


def config_schema() -> dict[str, Any]:
    """JSON schema of a Config's YAML file."""
    schema = TypeAdapter(Config).json_schema()
    schema["properties"]["provenance"] = {"type": "object", "description": "Where a file comes from; not read."}
    return schema


def config_keys() -> dict[str, dict[str, Any]]:
    """Dotted key → JSON schema of each value of Config."""
    return {key: schema for key, schema in key_schemas(Config).items() if "." in key}
