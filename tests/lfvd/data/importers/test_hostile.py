"""No file runs code, fills memory, hangs a reader, shows a traceback or leaves half an output.

Every attack is read in a child with limits (jail). That the attacks are real is tested too: where a plain unpickler reads
them, they run.
"""

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from lfvd.data.importers.pickles import unpickled, unpickled_bytes
from lfvd.files import InputError, read_yaml
from tests.helpers import hostile, hostile_files, jail
from tests.helpers.hostile import Attack

PICKLES = tuple(hostile.pickles())
HEAVY = 100_000
"""Bytes from which an attack is a slow test."""


def outcomes(door: str, attacks: Sequence[Attack], folder: Path) -> list[tuple[Attack, dict[str, Any]]]:
    """Each attack with what came of it behind a door."""
    files = [folder / f"train_{re.sub('[^A-Za-z0-9.-]', '-', attack.name)}{attack.suffix}" for attack in attacks]
    assert len(set(files)) == len(files) > 0
    for file, attack in zip(files, attacks, strict=True):
        file.write_bytes(attack.content)
    found = jail.read_all(door, files, folder)
    return [(attack, found[str(file)]) for file, attack in zip(files, attacks, strict=True)]


def assert_refused(attack: Attack, outcome: dict[str, Any]) -> None:
    """Refused in one printable line that names what is refused, without a file, in time, in memory."""
    text = outcome["text"].removesuffix("\n")
    if not (attack.harmless and outcome["end"] == "loaded"):
        assert outcome["end"] == "refused", text
        assert attack.says in text, text
        assert text.isprintable(), text
        assert outcome["made"] == []
    assert "Traceback" not in text, text
    assert hostile.CANARY not in outcome["made"]
    assert outcome["seconds"] < jail.SECONDS
    assert outcome["bytes"] < jail.MEMORY


def light(attacks: Sequence[Attack]) -> list[Attack]:
    return [attack for attack in attacks if len(attack.content) < HEAVY]


def test_plain_unpickler_runs_them(tmp_path):
    """Else the other tests would show nothing."""
    running = [attack for attack in PICKLES if attack.runs]
    assert len(running) >= 40
    dead = [attack.name for attack, outcome in outcomes("pickle", running, tmp_path) if not outcome["made"]]
    assert not dead


def test_there_are_enough_and_of_all_protocols():
    names = [attack.name for attack in PICKLES]
    assert len(set(names)) == len(names) >= 200
    protocols = {attack.content[1] if attack.content[:1] == b"\x80" else 0 for attack in PICKLES}
    assert protocols >= {0, 2, 3, 4, 5}  # 0 and 1 have no mark


def test_unpickler_refuses(tmp_path):
    for attack, outcome in outcomes("unpickle", light(PICKLES), tmp_path):
        assert_refused(attack, outcome)


@pytest.mark.slow
def test_unpickler_refuses_large_ones(tmp_path):
    heavy = [attack for attack in PICKLES if attack not in light(PICKLES)]
    for attack, outcome in outcomes("unpickle", heavy, tmp_path):
        assert_refused(attack, outcome)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("door", "attacks"),
    [
        ("import", hostile.pickles),
        ("import", hostile_files.layouts),
        ("import", hostile_files.jsons),
        ("features", hostile_files.npzs),
        ("describe", hostile_files.corpora),
        ("config", hostile_files.yamls),
        ("plan", hostile_files.yamls),
    ],
    ids=["import-pickle", "import-layout", "import-json", "import-npz", "describe-corpus", "config-yaml", "plan-yaml"],
)
def test_commands_refuse(tmp_path, door, attacks):
    """No output stands there afterwards, not even for a moment's rest of one."""
    for attack, outcome in outcomes(door, tuple(attacks()), tmp_path):
        assert_refused(attack, outcome)


def test_layouts_are_refused(tmp_path):
    for attack, outcome in outcomes("import", light(tuple(hostile_files.layouts())), tmp_path):
        assert_refused(attack, outcome)


def test_corpora_are_refused(tmp_path):
    for attack, outcome in outcomes("corpus", light(tuple(hostile_files.corpora())), tmp_path):
        assert_refused(attack, outcome)


def test_settings_are_refused(tmp_path):
    for attack, outcome in outcomes("config", light(tuple(hostile_files.yamls())), tmp_path):
        assert_refused(attack, outcome)


def test_honest_files_are_read(tmp_path):
    """The attacks are refused for what is wrong with them, not for their make."""
    honest = [Attack("corpus", hostile_files.safetensors(), suffix=".safetensors")]
    assert [outcome["end"] for _, outcome in outcomes("corpus", honest, tmp_path)] == ["loaded"]
    body = hostile.put([hostile.array("f4", (2,), b"\0\0\x80?" * 2), {"a": hostile.call("collections:OrderedDict")}], 2)
    for content in (hostile.whole(body), hostile.whole(body, 5)):
        vector, named = unpickled_bytes(content, source="honest")
        assert vector.tolist() == pickle.loads(content, encoding="latin1")[0].tolist() == [1.0, 1.0]
        assert named == {"a": {}}


def test_command_as_a_user_meets_it(tmp_path):
    """Exit 2, one line, no output."""
    attack = PICKLES[0]
    file, out = tmp_path / "x.pkl", tmp_path / "out.safetensors"
    file.write_bytes(attack.content)
    argv = [sys.executable, "-m", "lfvd", "import", str(file), "--out", str(out)]
    done = subprocess.run(argv, cwd=tmp_path, env=jail.environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"lfvd: {file}: .+\n", done.stderr)
    assert attack.says in done.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["x.pkl"]


def test_refusal_names_what_is_refused(tmp_path):
    file = tmp_path / "x.pkl"
    file.write_bytes(hostile.whole(hostile.call("os:system", "touch ran")))
    with pytest.raises(InputError) as caught:
        unpickled(file)
    assert str(caught.value) == (
        f"{file}: names os.system, which is code and not plain data, so it is not opened: "
        "have its maker write arrays, lists, dicts, text and numbers only"
    )


def test_errors_cannot_steer_a_terminal():
    assert str(InputError("a\x1b[2J\x07é\ud800\nb")) == "a\\x1b[2J\\x07é\\ud800\\nb"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [*a]", "its aliases repeat too much: write the values out"),
        (f"a: 0x{'f' * 40}", "a whole number has more than 64 bits"),
        ("a: !!bool maybe", "a value does not fit its tag or escape: correct it"),
        ("#" * 300_000, "has more than 262144 characters, but a YAML file of settings has fewer: cut it"),
    ],
)
def test_yaml_limits(tmp_path, text, says):
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(InputError, match=re.escape(says)):
        read_yaml(tmp_path / "f.yaml")


def test_yaml_aliases_in_reason_are_read(tmp_path):
    (tmp_path / "f.yaml").write_text("a: &a [1, 2]\nb: [*a, *a]\n")
    assert read_yaml(tmp_path / "f.yaml") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.tuples(inner, inner)
    ),
    max_leaves=10,
)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(PLAIN, st.integers(0, 5))
def test_plain_values_come_back(value, protocol):
    """The same as Python's own unpickler gives."""
    assert unpickled_bytes(pickle.dumps(value, protocol), source="x") == value


@hypothesis.settings(max_examples=1000, deadline=None)
@hypothesis.given(st.lists(st.binary(max_size=4) | st.sampled_from([a.content for a in light(PICKLES)]), max_size=9))
def test_noise_is_refused_or_read(parts):
    """Nothing but an InputError comes out; the long run over all kinds of file is `make fuzz`."""
    refused = None
    try:
        json.dumps(unpickled_bytes(b"".join(parts), source="noise"), default=repr, skipkeys=True)
    except InputError as error:
        refused = str(error)
    assert refused is None or refused.isprintable()
