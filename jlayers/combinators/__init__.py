"""Combinators: verbs that make one layer of several."""
