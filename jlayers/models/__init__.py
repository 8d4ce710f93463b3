"""Well-known networks, each a page of combinators, with the parameter counts of their papers."""

__all__ = ()
