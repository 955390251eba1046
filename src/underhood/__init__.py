"""Build every layer of a large language model from scratch, break it, measure it."""

__version__ = "0.1.0"
