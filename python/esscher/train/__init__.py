"""A small reference trainer: objectives × language models, with numbers that tell how far it got."""

from esscher.train.policies import Policy, TabularPolicy, TransformersPolicy
from esscher.train.run_folder import RunFolder
from esscher.train.training import Task, train
from esscher.train.training_settings import TrainingSettings

__all__ = ["Policy", "RunFolder", "TabularPolicy", "Task", "TrainingSettings", "TransformersPolicy", "train"]
