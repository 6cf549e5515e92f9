"""A strict reader of minigan's pages of HTML, and a browser that looks at them where one is installed."""

import re
import shutil
import subprocess
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

VOID = {"meta", "img", "br", "hr", "link", "input"}
KNOWN = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "article", "div", "p", "a"),
    *("h1", "h2", "h3", "h4", "strong", "small", "span", "ul", "li", "dl", "dt", "dd", "figure", "figcaption", "img"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "input", "label", "svg", "desc", "g", "path", "text"),
}
"""What pages are made of. No script, link, iframe, object, form, base, foreignObject, use."""

REFERENCES = ("aria-labelledby", "aria-describedby", "aria-controls", "for")
TEXTS = ("alt", "aria-label")
"""Attributes that people read, and nothing fetches."""

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here to look at pages")


class Page(HTMLParser):
    """Reads HTML, and fails where a browser would have to guess."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.style = ""
        assert text.startswith("<!DOCTYPE html>\n<html lang=")
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice"
        assert tag in KNOWN, f"<{tag}>"
        if tag in ("path", "g", "text", "desc"):
            assert "svg" in self.open
        if tag in ("h1", "h2", "h3", "h4", "p", "figure", "table", "ul", "div", "svg"):
            assert "p" not in self.open, f"<{tag}> ends a <p>"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def check(text: str) -> Page:
    """The page, after all that must hold of it whatever the run is."""
    page = Page(text)
    text.encode()
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids), "an id twice"
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", name) for name in ids)
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("srcset", "action", "poster")]
        for name, value in attributes.items():
            if name in ("src", "href"):
                assert value.startswith("data:image/png;base64,") or (value[0], value[1:] in ids) == ("#", True)
            elif name not in TEXTS:
                assert not re.search(r"//|url\(|script:|data:", value), value
            if name in REFERENCES:
                assert set(value.split()) <= set(ids), f"{name}={value}"
    assert not re.search(r"//|url\(|@import|@font-face", page.style)
    assert [tag for tag, _ in page.elements].count("h1") == 1
    assert all(image["alt"] and int(image["width"]) and int(image["height"]) for image in page.all("img"))
    assert all(svg["role"] == "img" and len(svg["aria-labelledby"].split()) == 2 for svg in page.all("svg"))
    assert all(drawn(path["d"]) for path in page.all("path"))
    assert "prefers-color-scheme: dark" in page.style
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    return page


def drawn(path: str) -> bool:
    """Whether a path's commands are known, and its numbers within the picture."""
    numbers = re.findall(r"-?[0-9.]+", path)
    assert re.fullmatch(r"(?:[MLHVZ ]|[0-9]+(?:\.[0-9])?)*", path), path[:200]
    return all(0 <= float(number) <= 480 for number in numbers)


def pictures(page: Page) -> list[tuple[int, int]]:
    """Their sizes, as they are inside and as the page says."""
    sizes = []
    for image in page.all("img"):
        with Image.open(BytesIO(b64decode(image["src"].partition(",")[2], validate=True))) as inside:
            inside.load()
            assert inside.size == (int(image["width"]), int(image["height"]))
            sizes.append(inside.size)
    return sizes


def rendered(page: Path, folder: Path, width: int = 1000) -> Image.Image:
    """What a browser without a network shows of it. Fails if the browser has something to say."""
    assert BROWSER is not None
    shot = folder / "shot.png"
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=2000"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--no-first-run"),
        *("--enable-logging=stderr", "--log-level=0", f"--user-data-dir={folder / 'profile'}"),
        *(f"--window-size={width},2000", f"--screenshot={shot}", page.resolve().as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if not shot.exists():
        pytest.skip(f"{BROWSER} makes no screenshot here: {done.stderr[-300:]}")
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "ERR_" in line]
    assert said == []
    with Image.open(shot) as image:
        return image.convert("RGB")
