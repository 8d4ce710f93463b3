"""One set of weights for all frameworks.

The parts of a model go by the same names everywhere, up to separators: ``blocks_0/up`` here,
``blocks.0.up`` there. What differs is how the arrays of a part are called and laid out, which is
the ``layout`` that each framework gives.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Weights = dict[str, Arrays]
WRAPPERS = ("residual", "body", "embed")  # around parts, in some frameworks
Layout = Callable[[str, Arrays], Mapping[str, np.ndarray]]


@functools.cache
def draw(model: str, size: Any) -> Weights:
    """Random weights, the same in every run: name of the part to its arrays, laid out as jlayers'.

    Biases and scales are random too, so that a wrong conversion shows.
    """
    import jax

    import jlayers as jl

    from ..models.jlayers import MODELS

    build = MODELS.get(f"{model}_loop", MODELS[model])
    x = jax.tree.map(lambda value: jl.spec(value.shape, value.dtype), batch(size)[0])
    params, _ = jax.eval_shape(build(size).init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    weights: Weights = {}
    for path, like in jl.flatten(params).items():
        part, name = _part_of(path)
        weights.setdefault(plain(part), {})[name] = _values(rng, name, like.shape)
    return weights


def _part_of(path: str) -> tuple[str, str]:
    """Part and array; the maps of an attention are parts, also where one layer holds them all.

    >>> _part_of("blocks_0/attend/key_bias"), _part_of("head/kernel")
    (('blocks_0/attend/keys', 'bias'), ('head', 'kernel'))
    """
    part, _, name = path.rpartition("/")
    maps = {"query": "query", "key": "keys", "value": "values", "out": "out"}
    which, _, array = name.partition("_")
    return (f"{part}/{maps[which]}", array) if which in maps else (part, name)


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    fan_in = int(np.prod(shape[:-1])) if "kernel" in name else 100
    offset = 1.0 if name == "scale" else 0.0
    return (offset + rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


def batch(size: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values or images and their classes, or ids and the next ones: the same in every run."""
    rng = np.random.default_rng(1)
    if hasattr(size, "inputs"):
        x = rng.standard_normal((size.batch, size.inputs)).astype(np.float32)
        return x, rng.integers(0, size.classes, size.batch, np.int32)
    if hasattr(size, "image"):
        x = rng.standard_normal((size.batch, size.image, size.image, 3)).astype(np.float32)
        return x, rng.integers(0, size.classes, size.batch, np.int32)
    ids = rng.integers(0, size.vocabulary, (size.batch, size.steps + 1), np.int32)
    return ids[:, :-1], ids[:, 1:]


def plain(path: str) -> str:
    """A path without the framework's separators, and without what holds no parameters itself.

    >>> plain(".blocks[0].up.weight"), plain("blocks_0/residual/body/a/conv")
    ('blocks_0_up_weight', 'blocks_0_a_conv')
    """
    names = re.findall(r"[a-z0-9]+", path.lower())
    return "_".join(name for name in names if name not in WRAPPERS)


def fill(weights: Weights, layout: Layout, own: Mapping[str, tuple[int, ...]]) -> Arrays:
    """The arrays of a framework's model.

    Args:
      layout: (name of a part, its arrays) to the framework's (name, array).
      own: path to shape, of all parameters of the framework's model.

    Returns:
      path to array. A model that scans over its blocks gets them stacked.

    Raises:
      ValueError: where the two are not the same parameters.
    """
    named: Arrays = {}
    for part, arrays in weights.items():
        named.update({plain(name): value for name, value in layout(part, arrays).items()})
    paths = {plain(path): path for path in own}
    if any(name.startswith("blocks_") for name in named.keys() - paths.keys()):
        named = _stacked(named)
    if named.keys() != paths.keys():
        raise ValueError(
            f"no weights for {sorted(paths.keys() - named.keys())[:5]}, "
            f"no parameters for {sorted(named.keys() - paths.keys())[:5]}"
        )
    return {
        path: np.ascontiguousarray(named[name].reshape(own[path])) for name, path in paths.items()
    }


def _stacked(named: Arrays) -> Arrays:
    whole = {name: value for name, value in named.items() if not name.startswith("blocks_")}
    groups: dict[str, dict[int, np.ndarray]] = {}
    for name, value in named.items():
        if name not in whole:
            _, i, rest = name.split("_", 2)
            groups.setdefault(f"blocks_{rest}", {})[int(i)] = value
    return whole | {
        name: np.stack([blocks[i] for i in range(len(blocks))]) for name, blocks in groups.items()
    }


def fused(weights: Weights, parts: tuple[str, ...], whole: str) -> Weights:
    """With parts that read the same input as one: ``query``, ``keys``, ``values`` as ``qkv``."""
    result = dict(weights)
    for part in weights:
        if part.endswith(f"_{parts[0]}"):
            stem = part.removesuffix(parts[0])
            pieces = [result.pop(stem + name) for name in parts]
            result[stem + whole] = {
                name: np.concatenate([piece[name] for piece in pieces], axis=-1)
                for name in pieces[0]
            }
    return result


def renamed(part: str, names: Mapping[str, str]) -> str:
    """A part under the framework's own name: the last that ``names`` has for its end."""
    for ours, theirs in names.items():
        if part.endswith(f"_{ours}"):
            return part.removesuffix(ours) + theirs
    return part


def tree_weights(tree: Any, weights: Weights, layout: Layout) -> Any:
    """``tree``, a pytree of arrays or their shapes, with the weights for leaves."""
    import jax

    leaves = jax.tree.leaves_with_path(tree)
    own = {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
    filled = fill(weights, layout, own)
    return jax.tree.unflatten(
        jax.tree.structure(tree), [jax.numpy.asarray(filled[path]) for path in own]
    )


def kernel_first(kernel: np.ndarray) -> np.ndarray:
    """(*size, in, out) to (out, in, *size)."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def by_name(**names: str) -> Layout:
    """Arrays that are laid out as they are here, under other names."""

    def layout(part: str, arrays: Arrays) -> Mapping[str, np.ndarray]:
        return {f"{part}/{names.get(name, name)}": value for name, value in arrays.items()}

    return layout
