"""Lightning modules, recipes and callbacks. Nothing here knows the file layout of the scripts."""

from .recipes import Recipe

__all__ = ["Recipe"]
