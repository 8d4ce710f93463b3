"""Answers to what other libraries call looking into a model and changing it.

How to read this file: it is data alone, rows of the table ``NAMES`` in ``answers.py``.
"""

from __future__ import annotations

_REWRITE = "jl.rewrite(model, selector, lambda layer: ...)"

SURGERY = {
    _REWRITE: (
        "tree_at tree_replace replace_module replace_modules set_submodule map_modules "
        "map_variables intercept_methods clone_model graph_transform"
    ),
    "jl.walk(model), or jl.select_layers(model, selector, kind=...)": (
        "named_modules modules named_children iter_modules iter_children tree_leaves_with_path"
    ),
    "model['encoder/attend'], by path or by number": "get_submodule get_layer get_module",
    "model[:-1], a slice of a serial": "pop",
    f"{_REWRITE}, with jl.serial() for the layer": "remove_layer delete_layer",
    "jl.flatten(params), arrays by path": "named_parameters iter_parameters named_buffers",
    "layer.replace(features=64)": "clone get_config from_config",
    "jl.transfer(params, old_model, new_model, x, key=key)": (
        "transfer_weights copy_weights load_matching"
    ),
    "jl.partition(params, '**/bias', '!head/**')": "filter is_array split_params filter_params",
}

# Attributes that modules of other libraries have and a layer does not: {word: answer}.
_OF_A_LAYER = {
    "model['encoder/attend'], by path or by number": (
        "get_submodule get_layer get_module layers_by_name submodules"
    ),
    "layer.children, a mapping of names to layers": "layers layer child_modules",
    "jl.walk(model), every layer with its path": (
        "named_modules modules named_children flatten_layers"
    ),
    "jl.flatten(params), arrays by path; a layer has none itself": (
        "parameters named_parameters weights variables trainable_weights trainable_variables "
        "non_trainable_weights buffers named_buffers get_weights"
    ),
    "params and state are dicts beside the model: jl.interop.match loads those of a file": (
        "state_dict load_state_dict load_weights set_weights save_weights"
    ),
    "jl.serial(**model.children, name=layer), another model": (
        "add append add_module extend insert register_module"
    ),
    "model[:-1], another model": "pop",
    _REWRITE: "set_submodule at",
    "jl.capture(layer, pattern), or jl.patch to change an output": (
        "register_forward_hook register_forward_pre_hook register_full_backward_hook"
    ),
    "jl.transforms.quantize(layer), or jl.transforms.lora(layer, rank=8): another layer": (
        "quantize enable_lora"
    ),
    "layer.replace(features=64)": "clone copy get_config from_config set",
    "apply(..., train=False), the default; jl.inference(model) whatever it says": "eval",
    "apply(..., train=True)": "train",
    "train_step(..., frozen='encoder/**')": (
        "trainable requires_grad_ requires_grad freeze unfreeze"
    ),
    "jl.summary(model, x)": "summary tabulate",
    "jl.out_spec(model, x)": "output_shape compute_output_shape output_spec",
    "jl.training.fit(step, state, data, ...)": "fit compile train_step",
    "y, state = layer.apply(params, state, x)": "forward call predict predict_on_batch",
    "jax.device_put(params, device): a layer has no arrays": "to cuda cpu half float double",
}
OF_A_LAYER = {word: answer for answer, words in _OF_A_LAYER.items() for word in words.split()}
