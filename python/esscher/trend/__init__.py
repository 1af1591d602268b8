"""The story of a training run, step by step, beside what was possible."""

from esscher.trend.events import TrendEvent
from esscher.trend.path import FrontierPlace, KnownFrontier, known_frontier
from esscher.trend.summarising import summarise_step
from esscher.trend.trend_step import StepMismatch, TrendStep
from esscher.trend.trending import Trend, TrendEnd, TrendRecorder, summarise_ahead, trend

__all__ = [
    "FrontierPlace",
    "KnownFrontier",
    "StepMismatch",
    "Trend",
    "TrendEnd",
    "TrendEvent",
    "TrendRecorder",
    "TrendStep",
    "known_frontier",
    "summarise_ahead",
    "summarise_step",
    "trend",
]
