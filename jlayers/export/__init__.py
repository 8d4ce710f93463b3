"""Models that leave: programs and operators that run without jlayers."""

__all__ = ()
