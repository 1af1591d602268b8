"""A small reference trainer: objectives × language models, with numbers that tell how far it got."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esscher.train.policies import Policy, TabularPolicy, TransformersPolicy
    from esscher.train.run_folder import RunFolder
    from esscher.train.training import Task, train
    from esscher.train.training_settings import TrainingSettings

__all__ = ["Policy", "RunFolder", "TabularPolicy", "Task", "TrainingSettings", "TransformersPolicy", "train"]

MODULES = {
    "policies": ("Policy", "TabularPolicy", "TransformersPolicy"),
    "run_folder": ("RunFolder",),
    "training_settings": ("TrainingSettings",),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: the command line reads the settings' defaults without torch."""
    if name not in __all__:
        raise AttributeError(f"module 'esscher.train' has no attribute {name!r}")
    module = next((module for module, names in MODULES.items() if name in names), "training")
    return getattr(import_module(f"esscher.train.{module}"), name)
