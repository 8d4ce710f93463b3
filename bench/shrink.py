"""The rows of the benchmark, shrunk so that a test, or a rehearsal without a GPU, is affordable."""

from .ops.conv import geometry
from .ops.pool import window
from .row import Row


def small(row: Row) -> Row:
    """The same operation on a small shape."""
    space = len(row.x) - 2
    sizes = {
        "dense": lambda: row.replace((3,) * (len(row.x) - 1) + (4,), features=5),
        "conv": lambda: _conv(row),
        "conv_transpose": lambda: row.replace((2, *[4] * space, 3), features=2),
        "separable": lambda: row.replace((2, *[5] * space, 4), features=3),
        "attention": lambda: _attention(row),
        "embedding": lambda: row.replace((2, 7), vocabulary=5, features=4),
        "dropout": lambda: row.replace((8, 16)),
        "max_pool": lambda: _pool(row),
        "avg_pool": lambda: _pool(row),
    }
    if row.group == "norm":
        groups = {"groups": 2} if "groups" in row.options else {}
        return row.replace((4, *[3] * space, 8), **groups)
    if row.group == "recurrent":
        return row.replace((2, 5, 3), features=4)
    return sizes[row.op]()


def _attention(row: Row) -> Row:
    return row.replace((2, 6, 2, 4), **({"window": 3} if row.options.get("window") else {}))


def _conv(row: Row) -> Row:
    g = geometry(row)
    groups = min(g.groups, 4)
    kernel = tuple(min(k, 7) for k in g.kernel)
    padding = tuple(p if k <= 7 else min(p, 3) for k, p in zip(g.kernel, g.padding, strict=True))
    axes = zip(kernel, g.dilation, padding, g.strides, strict=True)
    # The remainder of a stride stays: paddings that are wrong show there.
    sizes = [max(d * (k - 1) + 2 * s - 2 * p + 2, 3) for k, d, p, s in axes]
    channels, features = min(g.channels // g.groups, 3), min(g.features // g.groups, 2)
    return row.replace(
        (2, *sizes, groups * channels),
        features=groups * features,
        groups=groups,
        kernel=kernel,
        padding=padding,
    )


def _pool(row: Row) -> Row:
    w = window(row)
    sizes = [k + 2 * s + 1 for k, s in zip(w.window, w.strides, strict=True)]
    return row.replace((2, *sizes, 3))
