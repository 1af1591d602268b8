"""Diversity of completions: exact, and linear in the tokens unless it says otherwise."""

from esscher.diversity.bleu import self_bleu, self_bleu_of_texts
from esscher.diversity.copies import compression_ratio, text_compression_ratio, unique_share
from esscher.diversity.diversity_estimating import (
    SIZE_FREE,
    SUBSAMPLE,
    DiversityEstimate,
    estimate_distinct,
    estimate_diversity,
    estimate_excess,
    estimate_size_free,
)
from esscher.diversity.ngrams import (
    NgramStatistics,
    TopNgrams,
    distinct,
    distinct_without_each,
    ead,
    ngram_entropy,
    ngram_statistics,
    rarefied_distinct,
    repetition,
    top_ngrams,
)
from esscher.diversity.vendi import vendi_score

__all__ = [
    "SIZE_FREE",
    "SUBSAMPLE",
    "DiversityEstimate",
    "NgramStatistics",
    "TopNgrams",
    "compression_ratio",
    "distinct",
    "distinct_without_each",
    "ead",
    "estimate_distinct",
    "estimate_diversity",
    "estimate_excess",
    "estimate_size_free",
    "ngram_entropy",
    "ngram_statistics",
    "rarefied_distinct",
    "repetition",
    "self_bleu",
    "self_bleu_of_texts",
    "text_compression_ratio",
    "top_ngrams",
    "unique_share",
    "vendi_score",
]
