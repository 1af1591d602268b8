"""A small reference trainer: objectives × language models, with numbers that tell how far it got."""

from esscher.train.policies import Policy, TabularPolicy, TransformersPolicy
from esscher.train.run import Run
from esscher.train.settings import Settings
from esscher.train.training import Task, train

__all__ = ["Policy", "Run", "Settings", "TabularPolicy", "Task", "TransformersPolicy", "train"]
