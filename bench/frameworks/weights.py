"""One set of weights for all frameworks.

The parts of a model have the same names everywhere, up to separators: ``blocks_0/up`` here,
``blocks.0.up`` there. What differs is how the arrays of a part are named and laid out, which is the
``layout`` that each framework gives, and the names of a few parts, which are its ``PARTS``.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, Any]
Weights = dict[str, Arrays]
WRAPPERS = ("residual", "body", "embed", "cell")  # around parts, in some frameworks
Layout = Callable[[Arrays], Arrays]
NumPy, Shapes = dict[str, np.ndarray], Mapping[str, tuple[int, ...]]
Parts = Mapping[str, str]
NO_PARTS: Parts = {}
# The arrays of jlayers' layers; a row of ``bench.ops`` can have further ones.
OWN = ("kernel", "recurrent_kernel", "bias", "recurrent_bias", "scale", "embedding")


def own_names(arrays: Arrays) -> Arrays:
    """The layout of frameworks that name and shape their arrays as jlayers does."""
    return {name: arrays[name] for name in OWN if name in arrays}


def renamed(arrays: Arrays, **names: str) -> Arrays:
    """Arrays under the framework's names: ``w="kernel"`` where its name is ``w``."""
    return {theirs: arrays[ours] for theirs, ours in names.items() if ours in arrays}


def kernel_first(kernel: Any) -> Any:
    """(*size, in, out) to (out, in, *size)."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def torch_names(arrays: Arrays) -> Arrays:
    """The arrays of a layer that is not recurrent, as PyTorch and Equinox have them."""
    own = renamed(arrays, weight="scale", bias="bias") | renamed(arrays, weight="embedding")
    return own | {"weight": kernel_first(arrays["kernel"])} if "kernel" in arrays else own


def gate_count(arrays: Arrays) -> int:
    """The gates of a recurrent layer: 4 of an LSTM, 3 of a GRU, 1 of a plain one."""
    features, columns = arrays["recurrent_kernel"].shape
    return columns // features


def nested(flat: Arrays) -> dict[str, Any]:
    """Nested dicts from ``{"cell/ii/kernel": array}``."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[name] = value
    return tree


@functools.cache
def draw(model: str, size: Any) -> Weights:
    """Random weights, the same in every run: name of the part to its arrays, laid out as jlayers'.

    Biases and scales are random too, so that a wrong conversion shows.
    """
    import jax

    import jlayers as jl

    from .jlayers.models import MODELS

    build = MODELS.get(f"{model}_loop", MODELS[model])
    x = jax.tree.map(lambda value: jl.spec(value.shape, value.dtype), batch(size)[0])
    params, _ = jax.eval_shape(build(size).init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    weights: dict[str, dict[str, Any]] = {}
    for path, like in jl.flatten(params).items():
        part, name = _part_of(path)
        weights.setdefault(plain(part), {})[name] = _values(rng, name, like.shape)
    return weights


def _part_of(path: str) -> tuple[str, str]:
    """The names of part and array; the projections of an attention layer count as parts.

    >>> _part_of("blocks_0/attend/key_bias"), _part_of("head/kernel")
    (('blocks_0/attend/key', 'bias'), ('head', 'kernel'))
    """
    part, _, name = path.rpartition("/")
    projection, _, array = name.partition("_")
    if projection in ("query", "key", "value", "out"):
        return f"{part}/{projection}", array
    return part, name


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    fan_in = int(np.prod(shape[:-1])) if "kernel" in name else 100
    offset = 1.0 if name == "scale" else 0.0
    return (offset + rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


def batch(size: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values or images and their classes, or ids and the next ones: the same in every run."""
    rng = np.random.default_rng(1)
    if hasattr(size, "vocabulary"):
        ids = rng.integers(0, size.vocabulary, (size.batch, size.steps + 1), np.int32)
        return ids[:, :-1], ids[:, 1:]
    shape = (size.inputs,) if hasattr(size, "inputs") else (size.image, size.image, 3)
    x = rng.standard_normal((size.batch, *shape)).astype(np.float32)
    return x, rng.integers(0, size.classes, size.batch, np.int32)


def mlp_batches(size: Any, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """``count`` batches of values and of their classes, stacked."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, size.batch, size.inputs), np.float32)
    return x, rng.integers(0, size.classes, (count, size.batch), np.int32)


def plain(path: str) -> str:
    """A path without the framework's separators, and without names that hold no parameters.

    >>> plain(".blocks[0].up.weight"), plain("blocks_0/residual/body/a/conv")
    ('blocks_0_up_weight', 'blocks_0_a_conv')
    """
    names = re.findall(r"[a-z0-9]+", path.lower())
    return "_".join(name for name in names if name not in WRAPPERS)


def fill(weights: Weights, layout: Layout, own: Shapes, parts: Parts = NO_PARTS) -> NumPy:
    """The arrays of a framework's model.

    Args:
      layout: the arrays of a part to the framework's, by name.
      own: path to shape, of all parameters of the framework's model.
      parts: how parts end here to how they end there.

    Returns:
      path to array. A model that scans over its blocks gets them stacked.

    Raises:
      ValueError: where the two are not the same parameters.
    """
    named = {
        plain(f"{_part_name(part, parts)}/{name}"): value
        for part, arrays in weights.items()
        for name, value in layout(arrays).items()
    }
    paths = {plain(path): path for path in own}
    if any(name.startswith("blocks_") for name in named.keys() - paths.keys()):
        named = _stacked(named)
    if named.keys() != paths.keys():
        raise ValueError(
            f"no weights for {sorted(paths.keys() - named.keys())[:5]}, "
            f"no parameters for {sorted(named.keys() - paths.keys())[:5]}"
        )
    arranged = {path: named[name].reshape(own[path]) for name, path in paths.items()}
    return {path: np.ascontiguousarray(value) for path, value in arranged.items()}


def _part_name(part: str, names: Parts) -> str:
    for ours, theirs in names.items():
        if part.endswith(f"_{ours}"):
            return part.removesuffix(ours) + theirs
    return part


def _stacked(named: NumPy) -> NumPy:
    """The arrays of all blocks as one: ``blocks_0_up_bias`` and so on as ``blocks_up_bias``."""
    result: dict[str, Any] = {}
    blocks: dict[str, dict[int, np.ndarray]] = {}
    for name, value in named.items():
        first, _, rest = name.partition("_")
        if first == "blocks":
            i, _, rest = rest.partition("_")
            blocks.setdefault(f"blocks_{rest}", {})[int(i)] = value
        else:
            result[name] = value
    return result | {name: np.stack([own[i] for i in sorted(own)]) for name, own in blocks.items()}


def filled_tree(tree: Any, weights: Weights, layout: Layout, parts: Parts = NO_PARTS) -> Any:
    """The weights as leaves of ``tree``, a pytree of arrays or of their shapes."""
    import jax

    leaves = jax.tree.leaves_with_path(tree)
    own = {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
    filled = fill(weights, layout, own, parts)
    values = [jax.numpy.asarray(filled[path]) for path in own]
    return jax.tree.unflatten(jax.tree.structure(tree), values)
