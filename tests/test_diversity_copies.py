import gzip
import io
import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle_diversity
from esscher import Ragged
from esscher.diversity import compression_ratio, text_compression_ratio, top_ngrams, unique_share, vendi_score
from esscher.diversity.copies import INNER_TIME
from strategies import groups_over, tokens

few = tokens(vocabulary=2, max_rows=8, max_length=3)
weight = st.sampled_from([0.0, 0.25, 1.0, 1.0, 3.0])


@given(st.data())
def test_unique_share_counts_different_completions(data):
    rows = data.draw(few)
    groups = data.draw(groups_over(len(rows)))
    for a, b, got in zip(groups[:-1], groups[1:], unique_share(rows, groups), strict=True):
        texts = [tuple(rows[i]) for i in range(a, b)]
        assert got == pytest.approx(len(set(texts)) / len(texts) if texts else math.nan, rel=1e-15, nan_ok=True)


@given(st.data())
def test_weighted_unique_share_is_distinct_1_of_completions(data):
    rows = data.draw(few)
    weights = data.draw(st.lists(weight, min_size=len(rows), max_size=len(rows)))
    named = [[hash(tuple(row.tolist()))] for row in rows]
    expected = oracle_diversity.weighted_distinct(named, 1, weights)
    assert unique_share(rows, weights=weights)[0] == pytest.approx(expected, rel=1e-13, nan_ok=True)


@pytest.mark.parametrize(("largest", "width"), [(255, 1), (256, 2), (65_535, 2), (65_536, 4), (2**32 - 1, 4)])
def test_compression_ratio_is_zlibs_on_the_narrowest_integers(largest, width):
    ids = np.random.default_rng(0).integers(0, 40, 3000)
    ids[-1] = largest
    rows = Ragged.from_lengths(ids, [1000, 0, 2000])
    raw = b"".join(int(token).to_bytes(width, "little") for token in ids)
    got = compression_ratio(rows, [0, 1, 2, 3])
    assert got[0] == 1000 * width / len(zlib.compress(raw[: 1000 * width], 6))
    assert math.isnan(got[1])
    assert compression_ratio(rows)[0] == len(raw) / len(zlib.compress(raw, 6))
    assert compression_ratio(rows, bytes_per_token=4)[0] >= compression_ratio(rows)[0]


@pytest.mark.parametrize("seed", range(12))
def test_text_compression_ratio_is_that_of_the_package_diversity(seed, tmp_path, monkeypatch):
    # As diversity 0.3.1 does it in compression.py: a file of texts, and one by GzipFile of what gzip.compress gives.
    monkeypatch.setattr("time.time", lambda: INNER_TIME)
    rng = np.random.default_rng(seed)
    words = rng.choice(["the", "cät", "a", "dog", "sat", "."], (rng.integers(1, 60), rng.integers(1, 12)))
    texts = [" ".join(row) for row in words]
    raw, packed = tmp_path / "original.txt", tmp_path / "compressed.gz"
    raw.write_text(" ".join(texts), encoding="utf-8")
    with gzip.GzipFile(str(packed), "w+") as file:
        file.write(gzip.compress(" ".join(texts).encode("utf-8")))
    assert text_compression_ratio(texts) == raw.stat().st_size / packed.stat().st_size


def test_a_text_is_compressed_twice_and_reads_as_it_was():
    inner = gzip.compress(b"a b", mtime=INNER_TIME)
    file = io.BytesIO()
    with gzip.GzipFile("compressed.gz", "wb", fileobj=file, mtime=0) as packed:
        packed.write(inner)
    assert text_compression_ratio(["a", "b"]) == 3 / len(file.getvalue())


@given(st.data(), st.integers(1, 3))
def test_vendi_score_is_that_of_the_dense_kernel(data, n):
    rows = data.draw(tokens(max_rows=7, max_length=8))
    weights = data.draw(st.lists(weight, min_size=len(rows), max_size=len(rows)))
    expected = oracle_diversity.vendi_score(rows, n, weights) if any(weights) else math.nan
    assert vendi_score(rows, n, weights=weights)[0] == pytest.approx(expected, rel=1e-9, nan_ok=True)
    if len(rows):
        equal = oracle_diversity.vendi_score(rows, n, np.ones(len(rows)))
        assert vendi_score(rows, n)[0] == pytest.approx(equal, rel=1e-9)


@given(st.data(), st.integers(1, 3))
def test_vendi_scores_of_groups_are_separate(data, n):
    rows = data.draw(tokens(max_rows=7, max_length=8))
    groups = data.draw(groups_over(len(rows)))
    for a, b, got in zip(groups[:-1], groups[1:], vendi_score(rows, n, groups), strict=True):
        alone = vendi_score(rows.take(np.arange(a, b)), n)[0]
        assert got == pytest.approx(alone, rel=1e-9, nan_ok=True)


def test_vendi_score_of_many_blocks_of_ngrams(monkeypatch):
    rows = Ragged.from_lengths(np.random.default_rng(0).integers(0, 50, 600), np.full(30, 20))
    whole = vendi_score(rows, 2)
    monkeypatch.setattr("esscher.diversity.vendi.BLOCK", 70)
    assert vendi_score(rows, 2) == pytest.approx(whole, rel=1e-12)


def test_ngrams_longer_than_all_completions_are_none():
    rows = Ragged.from_rows([[1, 2], [3]])
    assert vendi_score(rows, 2**40) == vendi_score(rows, 3) == pytest.approx([1], rel=1e-12)
    assert top_ngrams(rows, 2**33, 1).token_ids.shape == (0, 2**33)


def test_copies_count_once_and_strangers_each():
    rows = Ragged.from_rows([[1, 2]] * 5 + [[3, 4], [5, 6]])
    assert vendi_score(rows, groups=[0, 5, 7]) == pytest.approx([1, 2], rel=1e-12)
    # Five copies and two strangers: exp of the entropy of (5/7, 1/7, 1/7).
    entropy = 5 / 7 * math.log(7 / 5) + 2 / 7 * math.log(7)
    assert vendi_score(rows)[0] == pytest.approx(math.exp(entropy), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda rows: compression_ratio(rows, bytes_per_token=3), ValueError, "bytes_per_token is 3: it must be 1, 2"),
        (lambda rows: compression_ratio(rows, bytes_per_token=1), ValueError, "is 1, but token 2 is 300: it needs 2"),
        (lambda _: text_compression_ratio(["a", 3]), TypeError, r"texts\[1\] is int: a text is a str"),
        (lambda rows: vendi_score(rows, 0), ValueError, "n is 0"),
        (lambda rows: vendi_score(rows, weights=[1, -1]), ValueError, r"weights\[1\] is -1.0: a weight is finite"),
        (lambda rows: vendi_score(rows, weights=[math.nan, 1]), ValueError, r"weights\[0\] is nan: a weight is"),
        (lambda rows: vendi_score(rows.take(np.zeros(4097, int))), ValueError, "group 0 has 4097 completions: .* Draw"),
        (lambda rows: unique_share(rows, weights=[1, math.inf]), ValueError, r"weights\[1\] is inf"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(Ragged.from_rows([[1, 2, 300], [1]]))
