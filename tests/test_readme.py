"""README: short lines, and its Python block runs as it stands, as in a notebook cell."""

import asyncio
import re

import pytest

from lfvd.data.simulate import simulate
from tests.helpers import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_short():
    lines = README.splitlines()
    assert len(lines) <= 120
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


@pytest.mark.slow
def test_its_python_runs_where_an_event_loop_is_running(tmp_path, monkeypatch, capsys):
    [block] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    simulate("meld", dialogues=40, seed=0).save(tmp_path / "data" / "demo.safetensors")

    async def cell() -> None:
        exec(compile(block, "README.md", "exec"), {})

    asyncio.run(cell())
    printed = capsys.readouterr().out
    assert "the tuned config" in printed.lower()
    assert "wf1" in printed
