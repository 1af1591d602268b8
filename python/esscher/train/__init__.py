"""A small reference trainer: objectives × language models, with numbers that tell how far it got."""

from esscher.train.policies import Policy, TabularPolicy, TransformersPolicy
from esscher.train.run_folder import Run
from esscher.train.training import Task, train
from esscher.train.training_settings import Settings

__all__ = ["Policy", "Run", "Settings", "TabularPolicy", "Task", "TransformersPolicy", "train"]
