"""A page as a parser and as headless Chromium see it, without a network."""

import json
import re
import shutil
import subprocess
import tempfile
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

QUIET = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
)
QUIET += ("--disable-sync", "--disable-extensions", "--hide-scrollbars", "--enable-logging=stderr", "--v=0")

PROBE = """<script>
const told = setInterval(() => {
  const root = document.documentElement;
  if (root.dataset.drawn === root.dataset.figures || root.dataset.problems) {
    clearInterval(told);
    const all = (selector) => [...document.querySelectorAll(selector)];
    const cut = all(".scroll").filter((box) => box.scrollWidth > box.clientWidth);
    parent.postMessage({
      wide: root.scrollWidth,
      narrowest: Math.min(...all(".plot .nsewdrag").map((area) => area.getBoundingClientRect().width)),
      cut: cut.map((box) => box.closest("section").id + " " + box.firstElementChild.className),
      ...root.dataset,
    }, "*");
  }
}, 50);
</script>"""

FRAME = """<!doctype html><body style="margin: 0"><script>
addEventListener("message", (event) => { document.documentElement.dataset.told = JSON.stringify(event.data); });
</script><iframe src="probed.html" style="border: 0; width: WIDTHpx; height: HEIGHTpx"></iframe>"""


class Seen:
    """What a browser made of a page: its document, and what the console said."""

    def __init__(self, dom: str, log: str) -> None:
        self.dom = dom
        self.console = [line for line in log.splitlines() if "CONSOLE" in line]

    def told(self, name: str) -> str | None:
        """An attribute data-… of the document's root."""
        found = re.search(rf'<html[^>]*\bdata-{name}="([^"]*)"', self.dom)
        return unescape(found[1]) if found else None


def see(page: Path, *, size: tuple[int, int] = (1280, 900), dark: bool = False, picture: Path | None = None) -> Seen:
    """Open a page; picture: where a PNG of its top goes. Skips where there is no Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    with tempfile.TemporaryDirectory(prefix="chromium") as profile:
        argv = [
            browser,
            "--headless",
            "--no-sandbox",
            *QUIET,
            f"--user-data-dir={profile}",
            "--virtual-time-budget=20000",
        ]
        argv += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        argv += [f"--window-size={size[0]},{size[1]}", *([f"--screenshot={picture}"] if picture else []), "--dump-dom"]
        done = subprocess.run([*argv, page.absolute().as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return Seen(done.stdout, done.stderr)


def ink(picture: Path) -> float:
    """Share of a screenshot's points that differ from its background, the corner's colour."""
    from matplotlib.image import imread

    points = imread(picture)[..., :3]
    return float((abs(points - points[3, 3]).max(-1) > 0.1).mean())


def see_in_frame(page: Path, folder: Path, *, width: int, **more) -> dict:
    """A page as narrow as a phone, which a window cannot be → its root's data, and `wide`, the width that it takes; `narrowest`,
    that of the smallest figure's plane; `cut`, section and kind of what must be scrolled sideways."""
    (folder / "probed.html").write_text(page.read_text(encoding="utf-8") + PROBE, encoding="utf-8")
    size = (max(500, width), 900)
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)).replace("HEIGHT", "900"))
    seen = see(folder / "frame.html", size=size, **more)
    assert not seen.console, seen.console
    return json.loads(seen.told("told"))


class Reader(HTMLParser):
    """A page's text, tables, anchors, and whatever it would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.rows, self.fetched, self.ids, self.links, self.open = [], [], [], [], [], []
        self.feed(page)
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        for name, value in attrs:
            if name in ("src", "srcset", "data", "action") or (name == "href" and tag != "a"):
                self.fetched.append(value)
            if name == "id":
                self.ids.append(value)
            if tag == "a" and name == "href":
                self.links.append(value)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data
