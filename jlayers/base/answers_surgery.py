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
    "model[:-1], a slice of a serial": "pop create_feature_extractor",
    f"{_REWRITE}, with jl.serial() for the layer": "remove_layer delete_layer",
    "jl.flatten(params), arrays by path": "named_parameters iter_parameters named_buffers",
    "layer.replace(features=64)": "clone get_config from_config",
    "jl.transfer(params, old_model, new_model, x, key=key)": (
        "transfer_weights copy_weights load_matching"
    ),
    "jl.partition(params, '**/bias', '!head/**')": "filter is_array split_params filter_params",
}
