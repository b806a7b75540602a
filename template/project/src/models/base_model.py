"""What every model is: its parameters are the keyword arguments of __init__, and it makes a scikit-learn estimator."""

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any


class BaseModel(ABC):
    """A model of src/models: file my_model.py holds class MyModel."""

    @abstractmethod
    def estimator(self, seed: int) -> Any:
        """A scikit-learn estimator, not yet fitted, that takes the rows as they come."""


def make_model(name: str, params: dict[str, Any], seed: int) -> Any:
    """The estimator of the model in src/models/<name>.py."""
    kind = getattr(import_module(f"src.models.{name}"), "".join(part.capitalize() for part in name.split("_")))
    return kind(**params).estimator(seed)
