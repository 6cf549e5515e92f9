"""The command line: `minigan`, or `python -m minigan`."""

from .main import main

__all__ = ["main"]
