"""What there is to do, most important first.

First what the device can do at best; whether the layers are right; one or two rows of each kind
and the steps that matter most; then what is more of each.
"""

from ..shrink import small
from .item import Item
from .laws import instances, law
from .operations import operation
from .roofline import roofline
from .rows import FIRST, REST
from .steps import decoding, steps


def plan(tiny: bool = False) -> dict[str, Item]:
    """Everything by name, in the order in which it is done.

    Args:
      tiny: with sizes for a rehearsal on a processor, or a test. They measure nothing.
    """
    table = instances()
    # The rows that `make test` leaves out are further options of the same layers.
    laws = {
        full: {
            f"law: {name}": law(f"law: {name}", row.layer, row.x)
            for name, row in table.items()
            if row.full == full
        }
        for full in (False, True)
    }
    first, rest = (
        {name: operation(small(row) if tiny else row) for name, row in rows.items()}
        for rows in (FIRST, REST)
    )
    whole, decoded = steps(tiny), decoding(tiny)
    important = ("step-mlp-dispatch", "step-transformer-16x512")
    return {
        "roofline": roofline(tiny),
        **laws[False],
        **first,
        **{name: whole.pop(name) for name in important},
        **{name: decoded.pop(name) for name in ("token-1", "token-repeat-1")},
        **rest,
        **whole,
        **decoded,
        **laws[True],
    }
