"""Results of checks on the terminal, and what a search makes of them."""

import io

import pytest
from rich.console import Console

from lfvd.files import InputError
from tune import session
from tune.preflight.result import CheckResult, print_result


@pytest.fixture
def console() -> Console:
    return Console(record=True, file=io.StringIO(), width=80)


@pytest.mark.parametrize(("status", "mark"), [("ok", "✓"), ("unknown", "?"), ("warning", "✗"), ("error", "✗")])
def test_a_mark_for_each_status(console, status, mark):
    """The message is no markup."""
    print_result(CheckResult("disk", status, "[red]room[/]"), console)
    assert console.export_text().rstrip() == f"{mark} disk      [red]room[/]"


def test_long_message_and_remedy_are_indented(console):
    print_result(CheckResult("storage", "warning", "word " * 30, "do that"), console)
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert lines[0].startswith("✗ storage   word word")
    assert lines[1].startswith("            word")
    assert lines[-1] == "            → do that"
    assert max(map(len, lines)) <= 80


def test_raise_or_warn(console):
    """Only a warning is printed; only an error is raised."""
    session.raise_or_warn([CheckResult("a", "ok", "good"), CheckResult("b", "unknown", "not known")], console)
    session.raise_or_warn([CheckResult("c", "warning", "so", "do that")], console)
    with pytest.raises(InputError, match=r"^it is broken: repair it$"):
        session.raise_or_warn([CheckResult("d", "error", "it is broken", "repair it")], console)
    assert console.export_text() == "warning: so: do that\n"
