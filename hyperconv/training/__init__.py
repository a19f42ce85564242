"""Lightning modules, recipes and callbacks. Nothing here knows the file layout of the scripts."""

from .classifier import MNISTClassifier
from .recipes import RECIPES, Recipe

__all__ = ["RECIPES", "MNISTClassifier", "Recipe"]
