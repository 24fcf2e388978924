"""Record what a checkout computes, prints and writes, and compare two recordings made on one machine.

    python tests/gates/record.py CHECKOUT OUT.json            (a minute of CPU time; starts Ray twice)
    python tests/gates/record.py --compare A.json B.json      (exit 0: equal; exit 1: prints what differs)

Both recordings need the same record.py and the same Python environment: the last bits of a float depend on the machine.
Only surfaces that stay are used: the commands `lfvd` and `lfvd-tune`, their files, and `lfvd.config.Config`.
`--compare` lists texts for people after all other differences: their wording may change on purpose.
"""

import difflib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cases import RENAMED, STUDIES

HERE = Path(__file__).resolve().parent
PARTS = ["golden", "imports", "configs", "errors", *(f"study {name}" for name in STUDIES)]


def record(checkout: Path, out: Path) -> None:
    found = {}
    commit = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True).stdout[:12]
    for part in PARTS:
        scratch = Path(tempfile.mkdtemp(prefix="gate"))
        env = {**os.environ, "PYTHONPATH": str(checkout), "GATE_CHECKOUT": str(checkout), "GATE_COMMIT": commit or "\0"}
        env |= {
            "COLUMNS": "160",
            "NO_COLOR": "1",
            "TERM": "dumb",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        argv = [sys.executable, str(HERE / "parts.py"), part, "part.json"]
        subprocess.run(argv, cwd=scratch, env=env, check=True)
        found[part] = json.loads((scratch / "part.json").read_text())
        shutil.rmtree(scratch)
    out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def flattened(value, path: tuple = ()) -> dict:
    """Path → leaf, with today's name of what was renamed; a list of plain values is one leaf."""
    if isinstance(value, dict) and value:
        named = {renamed(key): part for key, part in value.items()}
        return {p: v for key, part in named.items() for p, v in flattened(part, (*path, key)).items()}
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        return {p: v for i, part in enumerate(value) for p, v in flattened(part, (*path, i)).items()}
    return {path: value}


def renamed(key: str) -> str:
    head, dot, last = key.rpartition(".")
    return head + dot + RENAMED.get(last, last)


def compare(a: Path, b: Path) -> int:
    one, two = (flattened(json.loads(path.read_text(encoding="utf-8"))) for path in (a, b))
    differ = [p for p in dict.fromkeys([*one, *two]) if p not in one or p not in two or repr(one[p]) != repr(two[p])]
    wording = [p for p in differ if "text" in p]
    for title, paths in (("RESULTS", [p for p in differ if p not in wording]), ("WORDING", wording)):
        if paths:
            print(f"== {title}: {len(paths)} differences")
        for p in paths:
            print("--", " / ".join(map(str, p)))
            old, new = (as_lines(of[p]) if p in of else [] for of in (one, two))
            for line in list(difflib.unified_diff(old, new, n=0, lineterm=""))[2:]:
                if not line.startswith("@@"):
                    print(line)
    return int(bool(differ))


def as_lines(value) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else str(value).splitlines() or [""]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--compare", a, b]:
            sys.exit(compare(Path(a), Path(b)))
        case [checkout, out]:
            record(Path(checkout).resolve(), Path(out))
        case _:
            sys.exit(__doc__)
