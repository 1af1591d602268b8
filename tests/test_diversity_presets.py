import warnings
from pydoc_data.topics import topics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from sacrebleu.metrics import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from esscher.diversity import bleu, self_bleu_of_texts
from esscher.diversity.mteval import tokenise

pieces = st.sampled_from(
    ["a", "cat", "dog", "3", "1,5", "2.", ".5", "9-4", "-", "--", "it's", "&amp;lt;", "&quot;", "&", "(x)", "$", "-\n",
     "<skipped>", "\n", "\t", "é", "\uff0c", "...", ",,", "a.b", "3.a"]
)  # fmt: skip
texts = st.lists(pieces, max_size=9).map("".join) | st.lists(pieces, max_size=9).map(" ".join)
REAL = [paragraph for text in list(topics.values())[:8] for paragraph in text.split("\n\n")[1:6]]


def helm(texts):
    """As HELM logs it, in disinformation_metrics.py."""
    kept = [text.strip() for text in texts if text.strip()]
    if len(kept) < 2:
        return np.nan
    scorer = BLEU(effective_order=True)
    scores = [scorer.sentence_score(text, kept[:i] + kept[i + 1 :]).score for i, text in enumerate(kept)]
    return sum(scores) / len(scores)


def nltk(rows, n, smooth=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NLTK warns where a precision is 0
        scores = [
            sentence_bleu(rows[:i] + rows[i + 1 :], row, (1 / n,) * n, smoothing_function=smooth)
            for i, row in enumerate(rows)
        ]
    return sum(scores) / len(scores)


@given(texts)
def test_tokens_are_those_of_mteval(text):
    assert tokenise(text) == Tokenizer13a()(text).split()


@pytest.mark.parametrize("text", REAL[:20])
def test_tokens_of_real_text_are_those_of_mteval(text):
    assert tokenise(text) == Tokenizer13a()(text).split()


@given(st.lists(texts, max_size=6))
def test_sacrebleu_is_what_helm_logs(texts):
    assert self_bleu_of_texts(texts, "sacrebleu")[0] == pytest.approx(helm(texts), abs=1e-9, nan_ok=True)


def test_sacrebleu_is_what_helm_logs_of_real_text():
    assert len(REAL) >= 30
    got = self_bleu_of_texts(REAL, "sacrebleu")[0]
    assert got == pytest.approx(helm(REAL), abs=1e-9)
    assert 1 < got < 90


def test_sacrebleu_leaves_blanks_out_of_every_group():
    got = self_bleu_of_texts(["a b", " ", "a c", "\n", "a b c", "", "d"], "sacrebleu", [0, 4, 6, 7])
    assert got[0] == pytest.approx(helm(["a b", "a c"]), abs=1e-9)
    assert np.isnan(got[1:]).all()


@pytest.mark.parametrize("preset", ["nltk", "fast-bleu"])
@pytest.mark.parametrize("smoothing", [None, "none", "method1"])
def test_nltk_and_fast_bleu_are_nltk_on_words(preset, smoothing):
    rows = [text.split() for text in REAL[:25]]
    smooth = SmoothingFunction().method1 if smoothing == "method1" else None
    for n in (2, 4):
        got = self_bleu_of_texts(REAL[:25], preset, n=n, smoothing=smoothing)[0]
        assert got == pytest.approx(nltk(rows, n, smooth), abs=1e-12)


@pytest.mark.parametrize("n", [None, 3, 5])
def test_gdc_is_nltk_on_the_characters_of_the_first_texts(n, monkeypatch):
    monkeypatch.setattr(bleu, "GDC_TEXTS", 6)
    texts = [text[:60] for text in REAL[:20]]
    got = self_bleu_of_texts(texts, "gdc", [0, 11, 15, 20], n=n)
    first = [texts[:6], texts[11:15], texts[15:20]]
    expected = [nltk([list(text) for text in group], n or 3, SmoothingFunction().method1) for group in first]
    assert got == pytest.approx(expected, abs=1e-12)


def test_gdc_takes_500_texts():
    assert bleu.GDC_TEXTS == 500
    same = ["abcd"] * 500
    assert self_bleu_of_texts([*same, "x"], "gdc")[0] == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: self_bleu_of_texts(["a"], "bleu"), ValueError, "preset is 'bleu': it must be one of nltk, sacrebleu,"),
        (lambda: self_bleu_of_texts(["a", 1]), TypeError, r"texts\[1\] is int: a text is a str"),
        (lambda: self_bleu_of_texts("a b"), TypeError, "texts is a str, which would be one text a character"),
        (
            lambda: self_bleu_of_texts(["a"], "gdc", smoothing="none"),
            ValueError,
            "smoothing is 'none': the preset 'gdc'",
        ),
        (lambda: self_bleu_of_texts(["a"], n=0), ValueError, "n is 0"),
        (lambda: self_bleu_of_texts(["a"], groups=[0, 2]), ValueError, "groups ends at 2"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
