"""Evaluators that train a model with Lightning, and the modules they train it with."""
