"""Any three transforms around any layer: all laws hold, and merging changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert
from tables.instances import INSTANCES
from tables.tiers import full, soak
from tables.transforms import TRANSFORMS, stacked

import jlayers as jl
from jlayers import transforms
from jlayers.testing import check_layer


def weights_of(instance):
    """The paths of weights that every transform takes, and makes smooth functions of."""
    values = jl.flatten(instance.layer.init(jax.random.key(0), instance.x)[0])
    return [
        path
        for path, spec in jl.parameters(instance.layer, instance.x).items()
        if len(spec.shape_of_one) > 1
        and jnp.issubdtype(spec.dtype, jnp.floating)
        and varies(values[path], len(spec.copies))
    ]


def varies(weight, copies):
    """Whether no column is constant: it would have no direction, and standardised no length."""
    rows = np.asarray(weight).reshape(*weight.shape[:copies], -1, weight.shape[-1])
    return bool((rows.std(-2) > 1e-3).all())


def drawn(seed):
    """A row of the table of layers with three transforms of one of its weights."""
    rng = np.random.default_rng(seed)
    while True:
        name = rng.choice(list(INSTANCES))
        instance = INSTANCES[name]
        if paths := weights_of(instance):
            break
    path = str(rng.choice(paths))
    chosen = [str(name) for name in rng.choice(list(TRANSFORMS), 3, replace=False)]
    layer = stacked(instance.layer, path, chosen)
    differences = instance.differences and all(TRANSFORMS[one].differences for one in chosen)
    return f"{name}: {path}: {chosen}", instance._replace(layer=layer, differences=differences)


@pytest.mark.parametrize("seed", [0, *full(*range(1, 20)), *soak(*range(20, 400))])
def test_three_of_them_around_a_layer(seed):
    what, instance = drawn(seed)
    try:
        check_layer(
            instance.layer,
            instance.x,
            batch_axis=instance.batch_axis,
            same_dtype=instance.same_dtype,
            symbolic_axes=instance.axes_without_size(),
            differences=instance.differences,
        )
    except Exception as error:
        error.add_note(what)
        raise


# All layers that take weights in a way of their own, all transforms around each of them.
@pytest.mark.parametrize(
    "name", ["dense", "embedding", "self-attention", *full("lstm", "repeat", "ensemble")]
)
def test_merged_it_computes_the_same(name):
    instance = INSTANCES[name]
    ids = jnp.issubdtype(instance.x.dtype, jnp.integer)
    x = convert.draw_ids(instance.x.shape, 7) if ids else convert.draw_input(instance.x.shape)
    (path, *_) = weights_of(instance)
    order = list(TRANSFORMS)
    np.random.default_rng(len(name)).shuffle(order)
    layer = stacked(instance.layer, path, order)
    params, state = layer.init(jax.random.key(0), x)
    params = convert.draw(params)
    _, state = layer.apply(params, state, x, train=True)
    y, _ = layer.apply(params, state, x)
    plain, merged, rest = transforms.merge(layer, params, state)
    y_plain, _ = plain.apply(merged, rest, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), y, y_plain)
    assert merged.keys() == instance.layer.init(jax.random.key(0), x)[0].keys()


def test_every_transform_has_a_row():
    factories = {
        name
        for name in transforms.__all__
        if getattr(getattr(transforms, name), "__jlayers_factory__", False)
    }
    # It takes another parameter away, and no pattern.
    assert factories - TRANSFORMS.keys() == {"tie"}
