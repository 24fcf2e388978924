"""The command `lfvd` for the tests of this folder."""

import pytest

from lfvd.cli import main


@pytest.fixture
def lfvd(capsys):
    """Run a command in this process → (exit code, stdout, stderr)."""

    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in argv])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run
