"""What interop.match knows of files of transformers: ties, stacked experts, kernels both ways."""

import jax
import jax.numpy as jnp
import numpy as np

import jlayers as jl

RANDOM = np.random.default_rng(0)
IDS = jl.spec((1, 4), jnp.int32)


def draw(*shape):
    return RANDOM.standard_normal(shape).astype("float32")


def names_by_path(plan):
    assert plan.complete, str(plan)
    return {pair.path: pair.names for pair in plan.matched}


def test_tied_weights_are_wanted_once_where_there_is_one_place():
    table = draw(9, 4)
    file = {"wte.weight": table, "lm_head.weight": table}
    tied = jl.tied(jl.Embedding(9, 4), jl.serial())
    assert names_by_path(jl.interop.match(tied, IDS, file)) == {"embedding": ("wte.weight",)}
    apart = jl.serial(jl.Embedding(9, 4), jl.Dense(9, bias=False))
    found = names_by_path(jl.interop.match(apart, IDS, file))
    assert found == {"embedding": ("wte.weight",), "dense": ("lm_head.weight",)}
    # Equal numbers in another place are another array.
    file["lm_head.weight"] = table.copy()
    assert not jl.interop.match(tied, IDS, file).complete


def test_rules_may_begin_as_the_names_in_the_file_do():
    file = {"model.a.weight": draw(3, 4), "model.b.weight": draw(3, 4)}
    for rule in ("model.b ->", "b ->"):
        plan = jl.interop.match(jl.Dense(3, bias=False), jl.spec((2, 4)), file, rules=[rule])
        assert names_by_path(plan) == {"": ("model.a.weight",)}


def test_stacked_experts_are_cut_up():
    def gated(f, x):
        return f.down(jax.nn.silu(f.gate(x)) * f.up(x))

    def dense(size):
        return jl.Dense(size, bias=False)

    mlp = jl.compose(gated, gate=dense(5), up=dense(5), down=dense(4))
    file = {
        "mlp.gate.weight": draw(3, 4),
        "mlp.experts.gate_up_proj": draw(3, 10, 4),
        "mlp.experts.down_proj": draw(3, 4, 5),
    }
    plan = jl.interop.match(jl.MixtureOfExperts(mlp, 3), jl.spec((2, 4)), file)
    assert names_by_path(plan)["experts/2/up"] == ("mlp.experts.2.up_proj.weight",)
    params, state = plan.load()
    experts = params["experts"]
    up = file["mlp.experts.gate_up_proj"][:, 5:]
    np.testing.assert_array_equal(experts["up"]["kernel"], np.swapaxes(up, 1, 2))
    down = file["mlp.experts.down_proj"]
    np.testing.assert_array_equal(experts["down"]["kernel"], np.swapaxes(down, 1, 2))
    # The way back gives the arrays of the module, not those of single experts.
    back = plan.export(params, state)
    assert back.keys() == file.keys()
    jax.tree.map(np.testing.assert_array_equal, dict(back), file)
    # Without gates nothing is an expert's.
    plain = {"down_proj": down}
    assert jl.interop.match(dense(2), jl.spec((2, 4)), plain).extra == ["down_proj"]


def test_a_kernel_that_fits_two_layers_is_turned_for_its_own():
    """Mixtral's files have the layers in another order, and each kernel fits each place."""
    model = jl.serial(
        gate=jl.Dense(5, bias=False), up=jl.Dense(4, bias=False), down=jl.Dense(5, bias=False)
    )
    x = jl.spec((2, 4))
    file = {"w2.weight": draw(4, 5), "w1.weight": draw(5, 4), "w3.weight": draw(5, 4)}
    found = names_by_path(jl.interop.match(model, x, file))
    assert found == {"gate": ("w1.weight",), "up": ("w2.weight",), "down": ("w3.weight",)}
    # Where a kernel that fits in one way alone is as it is, so are the others, in their order.
    more = jl.serial(model=model, head=jl.Dense(3, bias=False))
    as_it_is = {f"{i}.weight": draw(*shape) for i, shape in enumerate([(4, 5), (5, 4), (4, 5)])}
    found = names_by_path(jl.interop.match(more, x, as_it_is | {"3.weight": draw(5, 3)}))
    assert [names[0][0] for names in found.values()] == ["0", "1", "2", "3"]
    # And GPT-2's, whose modules have names of their own.
    network = jl.serial(jl.Dense(5, bias=False), jl.Dense(4, bias=False))
    plan = jl.interop.match(network, x, {"c_fc.weight": draw(4, 5), "c_proj.weight": draw(5, 4)})
    assert {pair.says for pair in plan.matched} == {"transformers Conv1D: as it is"}


def test_layouts_of_single_layers():
    mamba = jl.Mamba(3)
    file = {
        "mixer.A_log": draw(8, 3),
        "mixer.D": draw(8),
        "mixer.conv1d.weight": draw(8, 1, 4),
        "mixer.conv1d.bias": draw(8),
        "mixer.in_proj.weight": draw(16, 4),
        "mixer.x_proj.weight": draw(7, 8),
        "mixer.dt_proj.weight": draw(8, 1),
        "mixer.dt_proj.bias": draw(8),
        "mixer.out_proj.weight": draw(4, 8),
    }
    params, _ = jl.interop.match(mamba, jl.spec((2, 5, 4)), file).load()
    params = params.get("mamba", params)
    np.testing.assert_array_equal(params["log_decay"], file["mixer.A_log"])
    back = jl.interop.export_state_dict(mamba, jl.spec((2, 5, 4)), params)
    for name, array in back.items():
        np.testing.assert_array_equal(array, file[f"mixer.{name}"])
    np.testing.assert_array_equal(params["conv_kernel"][:, 0], file["mixer.conv1d.weight"][:, 0].T)
    x = jl.spec((2, 5, 4))
    norms = {"LayerNorm.gamma": draw(4), "LayerNorm.beta": draw(4)}
    positions = {"embed_positions.weight": draw(6, 4)}
    model = jl.serial(jl.PositionEmbedding(6), jl.LayerNorm())
    params, _ = jl.interop.match(model, x, norms | positions).load()
    np.testing.assert_array_equal(params["layer_norm"]["scale"], norms["LayerNorm.gamma"])
    np.testing.assert_array_equal(
        params["position_embedding"]["embedding"], positions["embed_positions.weight"]
    )


def test_the_names_of_vit_in_a_file_by_order_of_text():
    block = jl.TransformerBlock(jl.SelfAttention(2), jl.serial(jl.Dense(6), jl.Dense(4)))
    parts = {
        "attention.attention.query": "query_kernel",
        "attention.attention.key": "key_kernel",
        "attention.attention.value": "value_kernel",
        "attention.output.dense": "out_kernel",
    }
    file = {f"{name}.weight": draw(4, 4) for name in parts}
    file |= {"intermediate.dense.weight": draw(6, 4), "output.dense.weight": draw(4, 6)}
    file |= {f"layernorm_{name}.weight": draw(4) for name in ("before", "after")}
    file |= {name.replace("weight", "bias"): draw(len(array)) for name, array in file.items()}
    file = {f"layer.0.{name}": file[name] for name in sorted(file)}
    plan = jl.interop.match(block, jl.spec((1, 3, 4)), file)
    found = names_by_path(plan)
    assert found["norm_attend"] == (
        "layer.0.layernorm_before.weight",
        "layer.0.layernorm_before.bias",
    )
    params, _ = plan.load()
    for name, ours in parts.items():
        np.testing.assert_array_equal(params["attend"][ours], file[f"layer.0.{name}.weight"].T)
