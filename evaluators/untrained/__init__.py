"""Evaluators that train nothing: a table, a supernet's weights, a score of first weights."""
