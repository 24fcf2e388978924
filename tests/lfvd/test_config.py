"""Config: what it refuses and in which words, what it keeps through YAML, and that the presets are the paper's."""

import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import lfvd.config
from lfvd.config import PRESETS, Config, ConfigError, DataConfig, ModelConfig, OptimConfig, config_keys
from lfvd.files import InputWarning


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"model.heds": 4}, "there is no key `model.heds`: did you mean `model.heads`?"),
        ({"lr": 1e-3}, "there is no key `lr`: did you mean `optim.lr`?"),
        ({"model.heads": 2, "model": {}}, "there is no key `model`: did you mean `model.width`?"),
        ({"model.lr": 1e-3}, "there is no key `model.lr`: did you mean `optim.lr`?"),
        (
            {"model.heads": 3},
            "the value of `model.heads` is 3, but must divide `model.width` 256: try 2 or 4",
        ),
        ({"model.width": 7, "model.heads": 1}, "the value of `model.width` is 7, but must be even: try 8"),
        ({"model.heads": 2.0}, "the value of `model.heads` is 2.0, but must be a whole number"),
        ({"model.heads": True}, "the value of `model.heads` is True, but must be a whole number"),
        ({"model.heads": None}, "the value of `model.heads` is None, but must be a whole number"),
        ({"model.attention": 1}, "the value of `model.attention` is 1, but must be true or false"),
        ({"model.dropout": 1.0}, "the value of `model.dropout` is 1.0, but must be at least 0 and at most 0.95"),
        ({"optim.lr": 0}, "the value of `optim.lr` is 0.0, but must be above 0 and at most 1"),
        ({"optim.lr": 10**400}, "the value of `optim.lr` is inf, but must be above 0 and at most 1"),
        ({"optim.lr": "nan"}, "the value of `optim.lr` is nan, but must be above 0 and at most 1"),
        ({"optim.lr": "fast"}, "the value of `optim.lr` is 'fast', but must be a number"),
        ({"optim.lr": {}}, "the value of `optim.lr` is {}, but must be a number"),
        ({"optim.lr": False}, "the value of `optim.lr` is False, but must be a number"),
        (
            {"model.fusion": "varational"},
            "the value of `model.fusion` is 'varational', but must be one of variational, add, concat, gate: "
            "did you mean `variational`?",
        ),
        ({"model.anchor": ["l"]}, "the value of `model.anchor` is ['l'], but must be one of l, a, v"),
        ({"run.device": "gpu"}, "the value of `run.device` is 'gpu', but must be one of auto, cpu, cuda"),
    ],
)
def test_bad_value(values, text):
    with pytest.raises(ConfigError) as caught:
        Config().with_values(values)
    assert str(caught.value) == f"config: {text}"


@pytest.mark.parametrize("bad", [[], ["x"], ["l", "l"], "l,x", "", 3, [["l"]], [{"l": 1}], None, {}])
def test_bad_modalities(bad):
    with pytest.raises(ConfigError, match="must be a list of one or more of l, a, v, each once"):
        Config().with_values({"data.modalities": bad})


@pytest.mark.parametrize("given", ["v,l", "v, l", ["v", "l"], ("v", "l")])
def test_modalities_in_each_notation(given):
    assert Config().with_values({"data.modalities": given}).data.modalities == ("v", "l")


def test_all_errors_of_a_file_together(tmp_path):
    text = "model: {heds: 3, width: big}\noptim: {lr: -1}\nrun: {epochs: 0}\n"
    with pytest.raises(ConfigError) as caught:
        Config.from_yaml(write(tmp_path / "c.yaml", text))
    assert str(caught.value) == (
        f"{tmp_path / 'c.yaml'}: the value of `model.width` is 'big', but must be a whole number; "
        "there is no key `model.heds`: did you mean `model.heads`?; "
        "the value of `optim.lr` is -1.0, but must be above 0 and at most 1; "
        "the value of `run.epochs` is 0, but must be at least 1 and at most 100000"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {}", "there is no key `modle`: did you mean `model`?"),
        ("model.width: 8", "there is no key `model.width` at the top of the file: write `model: {width: …}`"),
        ("model: 3", "the value of `model` is 3, but must be a mapping of its keys"),
        ("1: {a: 2}", "there is no key `1`: known keys are data, model, loss, optim, run"),
        ("- a", "holds a list, but must hold a mapping of keys to values"),
        ("model: {width: 8, width: 16}", "is not valid YAML: the key `width` is given twice"),
        ("model: {}\nmodel: {}", "is not valid YAML: the key `model` is given twice"),
        ("model: [", "is not valid YAML: while parsing a flow node"),
        ("a: !!python/object:os.system x", "is not valid YAML: could not determine a constructor"),
    ],
)
def test_bad_file(tmp_path, text, message):
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(ValueError, match=re.escape(f"{file}: {message}")) as caught:
        Config.from_yaml(file)
    assert "\n" not in str(caught.value)


def test_number_notations_of_yaml(tmp_path):
    file = write(tmp_path / "c.yaml", "optim: {lr: 1e-4, clip_norm: 2, weight_decay: '0.5'}\nloss: {gamma1: 0}\n")
    config = Config.from_yaml(file)
    assert (config.optim.lr, config.optim.clip_norm, config.optim.weight_decay) == (1e-4, 2.0, 0.5)
    assert isinstance(config.loss.gamma1, float)


def other_value(key):
    """A value that differs from the default."""
    schema = config_keys()[key]
    default = schema["default"]
    if key == "data.modalities":
        return ["a"]
    if "enum" in schema:
        return next(choice for choice in schema["enum"] if choice != default)
    if schema["type"] == "boolean":
        return not default
    return (default * 2 if schema["type"] == "integer" else default / 3) or 1


@pytest.mark.parametrize("key", list(config_keys()))
def test_every_key_survives_yaml(tmp_path, key):
    value = other_value(key)
    config = Config().with_values({key: value})
    assert config.flat() == {**Config().flat(), key: value} != Config().flat()
    config.to_yaml(tmp_path / "c.yaml", provenance={"seed": 3, "data": "ä"})
    assert Config.from_yaml(tmp_path / "c.yaml") == config
    assert Config.from_dict(config.to_dict()) == config


def test_provenance_is_not_part_of_the_config(tmp_path):
    file = write(tmp_path / "c.yaml", "provenance: {model: {heads: 3}, anything: [1]}\nmodel: {heads: 8}\n")
    assert Config.from_yaml(file) == Config().with_values({"model.heads": 8})
    assert Config.from_yaml(write(tmp_path / "empty.yaml", "")) == Config()


@pytest.mark.parametrize("values", [{"optim": {"rate": 0.5}}, {"optim": {"rate": 0.5, "lr": 0.5}}])
def test_an_old_key_is_read_with_one_warning(monkeypatch, values):
    monkeypatch.setattr(lfvd.config, "OLD_KEYS", {"optim.rate": "optim.lr", "model.gone": None})
    with pytest.warns(InputWarning, match=r"^c\.yaml: `optim\.rate` is now `optim\.lr`$"):
        assert Config.from_dict(values, "c.yaml") == Config().with_values({"optim.lr": 0.5})
    with pytest.warns(InputWarning, match=r"^config: `model\.gone` has no effect any more$"):
        assert Config().with_values({"model.gone": 3}) == Config()


@pytest.mark.parametrize(
    ("preset", "figures"),
    [
        ("iemocap", {"lr": 6.2e-5, "batch_size": 20, "epochs": 100, "gamma1": 3.5e-2}),
        ("meld", {"lr": 2.5e-4, "batch_size": 32, "epochs": 80, "gamma1": 1.35e-3}),
    ],
)
def test_presets_are_the_papers(preset, figures):
    config = Config.from_yaml(preset)
    flat = {key.split(".")[1]: value for key, value in config.flat().items()}
    shared = {"weight_decay": 7e-3, "gamma2": 5e-3, "gamma3": 3e-3}
    decided = {"width": 256, "latent": 16, "temperature": 0.1, "heads": 4, "dag_layers": 2, "dropout": 0.3}
    expected = {**figures, **shared, **decided, "clip_norm": 5.0, "modalities": ["l", "a", "v"], "anchor": "l"}
    assert {key: flat[key] for key in expected} == expected


def test_presets_are_all_tested_and_a_file_of_the_same_name_wins(tmp_path, monkeypatch):
    assert {p.stem for p in PRESETS.glob("*.yaml")} == {"iemocap", "meld"}
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "meld", "model: {heads: 8}")
    assert Config.from_yaml("meld").model.heads == 8


@pytest.mark.parametrize(
    ("modalities", "anchor", "used"),
    [(("l", "a", "v"), "v", "v"), (("v", "a"), "l", "a"), (("v",), "l", "v"), (("v", "l"), "a", "l")],
)
def test_anchor_is_a_present_modality(modalities, anchor, used):
    config = Config(data=DataConfig(modalities=modalities), model=ModelConfig(anchor=anchor))
    assert config.anchor == used


def test_values_are_checked_however_a_config_is_made():
    with pytest.raises(ValueError, match="should be less than or equal to 1"):
        OptimConfig(lr=2)
    with pytest.raises(FrozenInstanceError):
        Config().model.heads = 3


@pytest.mark.parametrize("key", [key for key in config_keys() if "." in key])
def test_every_field_is_documented(key):
    assert len(config_keys()[key]["description"]) > 10
