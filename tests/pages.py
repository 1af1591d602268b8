"""HTML pages as tests read them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

VOID = {"meta", "link", "br", "hr", "img", "input"}


def plain(text):
    """One line, single spaces: what a reader reads, wherever lines break."""
    return " ".join(text.split())


class Page(HTMLParser):
    """Checks that what opens is closed, in order, and keeps the attributes and the text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.attributes, self.tags, self.text = [], [], [], ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def check_page(html):
    """A page is well formed, small, loads nothing and runs nothing."""
    page = Page(html)
    assert "script" not in page.tags
    for attribute, value in page.attributes:
        if not attribute.startswith("xmlns"):
            assert "//" not in (value or ""), f"{attribute}={value}"
    assert "url(" not in html
    assert "@import" not in html
    assert not {"link", "img", "iframe", "image"} & set(page.tags)
    assert len(html) < 200_000
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ElementTree.fromstring(svg)
        assert "nan" not in svg.lower()
