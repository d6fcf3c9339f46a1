"""Texts of strangers (answers, class names, file names) in files that are read as more than text."""

from __future__ import annotations

import re

# What a spreadsheet takes for a formula, at the beginning of a cell. One that separates by semicolons or tabs
# begins a cell at each of them, and at a line break, whatever the quotes around the whole.
_FORMULA = re.compile(r"((?:^|[;\t\r\n])\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
_MARKDOWN = re.compile(r"[\\`*\[\]|~#!$]|(?<!\w)_|_(?!\w)")  # within a word, _ is itself


def csv_cell(text: str) -> str:
    """The text of a CSV cell, which no spreadsheet computes: an apostrophe stands before a formula."""
    return _FORMULA.sub(r"\1'", text)


def markdown_text(text: object) -> str:
    """A text within a line or table cell of Markdown: shown as it is, with no markup, HTML or link in it."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _MARKDOWN.sub(r"\\\g<0>", line)
    # GitHub makes links of bare addresses.
    return re.sub(r"(?i)\b(https?|ftp|mailto|xmpp):", r"\1&#58;", line).replace("www.", "www&#46;")


def markdown_code(text: object) -> str:
    """The same as code, in a fence that the text does not hold."""
    line = " ".join(str(text).split()).replace("|", "¦")
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"
