"""The tokenisation of mteval-v13a, NIST's script for machine translation, which sacreBLEU calls 13a."""

from __future__ import annotations

import re
import string

# Punctuation of ASCII stands alone, but for these four, which belong to numbers and words too.
_ALONE = re.compile("([" + re.escape("".join(set(string.punctuation) - set("',-."))) + "])")
# In this order: a period or comma stands alone unless digits are on both sides; a dash does after a digit.
_SPLITS = (
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
# In this order: an ampersand that an escape brings begins no escape before it.
_ESCAPES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))


def tokenise(text: str) -> list[str]:
    """Return the tokens of a text by mteval-v13a's rules for Western languages, case kept.

    Examples
    --------
    >>> tokenise('He paid 1,000.50 -- "cash", not 9-5.')
    ['He', 'paid', '1,000.50', '--', '"', 'cash', '"', ',', 'not', '9', '-', '5', '.']
    """
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for escape, character in _ESCAPES:
        text = text.replace(escape, character)
    text = _ALONE.sub(r" \1 ", f" {text} ")
    for pattern, replacement in _SPLITS:
        text = pattern.sub(replacement, text)
    return text.split()
