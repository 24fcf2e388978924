"""The rows of the paper's tables: what each changes, that all published ones are there, and which are left out when."""

import pytest

from lfvd.config import Config
from lfvd.files import InputError
from lfvd.training.trainer import train
from tune.paper.rows import REFERENCE, ROWS, canonical_config, modality_code, parts_of, select_rows
from tune.published import dataset_of, published

ALL = ("l", "a", "v")

BASE = Config().with_values({"loss.gamma1": 0.01, "loss.gamma2": 0.02, "loss.gamma3": 0.03})

CHANGES = {
    ("table4", "T"): {"data.modalities": ["l"]},
    ("table4", "V"): {"data.modalities": ["v"]},
    ("table4", "A"): {"data.modalities": ["a"]},
    ("table4", "T+V"): {"data.modalities": ["l", "v"]},
    ("table4", "T+A"): {"data.modalities": ["l", "a"]},
    ("table4", "A+V"): {"data.modalities": ["a", "v"]},
    ("table4", "T+A+V"): {},
    ("table5", "ours"): {},
    ("table5", "w/o LFA-Transformer"): {"model.attention": False},
    ("table5", "w/o CEAR"): {"model.atmosphere": False},
    ("table5", "w/o DL"): {"loss.gamma1": 0, "loss.gamma2": 0},
    ("table5", "w/o CMVD"): {"model.fusion": "add", "loss.gamma3": 0},
    ("table5", "w/o CMVD-Fusion"): {"model.fusion": "add"},
    ("table5", "w/o CMVD-Distillation"): {"loss.gamma3": 0},
    ("table5", "w/ ours(A)"): {"model.anchor": "a"},
    ("table5", "w/ ours(V)"): {"model.anchor": "v"},
    ("table6", "ours"): {},
    ("table6", "w/o L_self"): {"loss.gamma1": 0},
    ("table6", "w/o L_full"): {"loss.gamma2": 0},
    ("table6", "w/o L_distillation"): {"loss.gamma3": 0},
    ("table6", "w/o L_all"): {"loss.gamma1": 0, "loss.gamma2": 0, "loss.gamma3": 0},
    ("figure2", "variational"): {},
    ("figure2", "add"): {"model.fusion": "add"},
    ("figure2", "concat"): {"model.fusion": "concat"},
    ("figure2", "gate"): {"model.fusion": "gate"},
    ("figure3", "LFVD"): {},
    ("figure4", "LFVD"): {},
}
"""What is different in each row's Config, written from the paper's Tables 4 to 6 and not from the package."""


@pytest.mark.parametrize("dataset", ["meld", "iemocap"])
def test_rows_change_the_config_as_the_paper_says_and_in_nothing_else(dataset):
    rows, left = select_rows(list(ROWS), BASE, ALL, dataset)
    own, other = ("table3", "Table 2") if dataset == "meld" else ("table2", "Table 3")
    expected = {(own, "LFVD"): {}, **CHANGES}
    assert {(row.part, row.name) for row in rows} == set(expected)
    for row in rows:
        config, before = BASE.with_values(row.values).flat(), BASE.flat()
        changed = {key: value for key, value in config.items() if value != before[key]}
        assert changed == expected[row.part, row.name], row
    assert [sentence.split(":")[0] for sentence in left] == [other]


@pytest.mark.parametrize("dataset", ["meld", "iemocap"])
def test_every_published_row_is_there(dataset):
    paper = published()[dataset]
    for part in ("table4", "table5", "table6"):
        assert set(paper[part]) == set(ROWS[part])
        assert REFERENCE[part] in paper[part]
        assert all(0 < acc < 100 and 0 < wf1 < 100 for acc, wf1 in paper[part].values())
        assert paper[part][REFERENCE[part]] == paper["table4"]["T+A+V"], "the tables agree on the whole model"
    classes = paper["table2" if dataset == "iemocap" else "table3"]
    assert [classes["LFVD"]["acc"], classes["LFVD"]["wf1"]] == paper["table5"]["ours"]
    assert all(len(each["f1"]) == len(paper["classes"]) for each in classes.values())


def test_published_classes_are_those_of_the_corpora():
    from lfvd.data.datasets import MELD_CLASSES
    from lfvd.data.simulate import simulate

    for dataset in ("meld", "iemocap"):
        assert tuple(published()[dataset]["classes"]) == simulate(dataset, seed=0, dialogues=8).info.classes
        assert tuple(published()[dataset]["length_bins"]) == simulate(dataset, seed=0, dialogues=8).info.length_bins
    assert tuple(published()["meld"]["classes"]) == MELD_CLASSES


def names(rows, part):
    return [row.name for row in rows if row.part == part]


def test_language_alone():
    rows, left = select_rows(list(ROWS), BASE, ("l",), "meld")
    assert names(rows, "table3") == ["LFVD"]
    assert names(rows, "table4") == ["T"]
    assert names(rows, "table5") == ["ours", "w/o LFA-Transformer", "w/o CEAR", "w/o DL", "w/o CMVD"]
    assert names(rows, "table6") == ["ours", "w/o L_full", "w/o L_distillation", "w/o L_all"]
    assert names(rows, "figure2") == ["variational"]
    assert "Table 4, A+V: the data hold no audio and no visual features" in left
    assert "Table 6, w/o L_self: is the same as ours with this config on T" in left
    assert "Table 5, w/o CMVD-Distillation: is the same as w/o CMVD with this config on T" in left
    assert len(rows) + len(left) == sum(len(part) for part in ROWS.values())


def test_two_modalities():
    rows, left = select_rows(["table4", "table5"], BASE, ("l", "v"), "meld")
    assert names(rows, "table4") == ["T", "V", "T+V"]
    assert "w/ ours(V)" in names(rows, "table5")
    assert "Table 5, w/ ours(A): is the same as ours with this config on T+V" in left


def test_a_base_that_lacks_what_a_row_takes_away():
    base = BASE.with_values({"loss.gamma3": 0.0, "model.fusion": "add"})
    rows, left = select_rows(["table5", "table6", "figure2"], base, ALL, "meld")
    assert not {"w/o CMVD", "w/o CMVD-Fusion", "w/o CMVD-Distillation"} & set(names(rows, "table5"))
    assert "Table 6, w/o L_distillation: is the same as ours with this config on T+A+V" in left
    assert names(rows, "figure2") == ["variational", "add", "concat", "gate"], "Figure 2 names its fusions itself"
    assert base.with_values(next(r for r in rows if r.name == "variational").values).model.fusion == "variational"


@pytest.mark.parametrize(
    ("modalities", "values"),
    [("l", {"model.fusion": "add", "loss.gamma1": 0.0, "model.anchor": "v"}), ("l,v", {"model.anchor": "a"})],
)
def test_configs_with_the_same_effect_train_the_same_model(tiny_config, tiny_corpus, modalities, values):
    one = tiny_config.with_values({"data.modalities": modalities, "run.epochs": 2})
    other = one.with_values(values)
    assert one != other
    assert canonical_config(one) == canonical_config(other)
    records = [
        [r["val/loss"] for r in train(each, tiny_corpus, 0).history] for each in (one, other, canonical_config(one))
    ]
    assert records[0] == records[1] == records[2]


def test_configs_with_another_effect_train_another_model(tiny_config, tiny_corpus):
    """Rows that are kept apart come to different losses: nothing is trained twice under two names."""
    base = tiny_config.with_values({"run.epochs": 2, "loss.gamma1": 1.0, "loss.gamma2": 1.0, "loss.gamma3": 1.0})
    for present in (("l",), ALL):
        rows, _ = select_rows(["table4", "table5", "table6", "figure2"], base, present, "meld")
        configs = {canonical_config(base.with_values(row.values)) for row in rows}
        losses = {train(each, tiny_corpus, 0).history[-1]["val/loss"] for each in configs}
        assert len(losses) == len(configs) == (6 if present == ("l",) else 20)


def test_names():
    assert modality_code(("v", "l")) == "T+V"
    assert modality_code(ALL) == "T+A+V"
    assert dataset_of("MELD (simulated)") == "meld"
    assert dataset_of("IEMOCAP") == "iemocap"
    with pytest.raises(InputError, match="the data are TINY, but the paper's tables are of IEMOCAP and MELD"):
        dataset_of("TINY")


def test_parts_of_the_command_line():
    assert parts_of("2, 4", "3") == ["table2", "table4", "figure3"]
    assert parts_of("", "2") == ["figure2"]
    with pytest.raises(InputError, match=r"--tables 4,7: there is no table '7' to reproduce: name some of 2,3,4,5,6"):
        parts_of("4,7", "")
    with pytest.raises(InputError, match="--figures 1: there is no figure '1'"):
        parts_of("4", "1")
    with pytest.raises(InputError, match="--tables and --figures name nothing"):
        parts_of(" ", ",")
