"""Answers to what other libraries call weights that come in, and models that leave.

How to read this file: it is data alone, rows of the table ``NAMES`` in ``answers.py``.
"""

from __future__ import annotations

_MATCH = "jl.interop.match(model, x, jl.interop.read(path)).load()"

WEIGHTS = {
    f"params, state = {_MATCH}": (
        "load_state_dict load_weights load_torch from_torch from_pytorch from_keras from_flax "
        "from_pretrained"
    ),
    "jl.interop.write(path, jl.interop.export_state_dict(model, x, params, state))": (
        "state_dict save_weights save_state_dict save_pretrained to_torch to_keras to_flax"
    ),
}

TRANSFORMS = {
    'jl.transforms.lora(model, "**/query_kernel", rank=8)': (
        "LoRA LoRAConfig LoraConfig LoRALayer LoRALinear LoRAParam get_peft_model enable_lora lora"
    ),
    "jl.transforms.merge(model, params, state)": (
        "merge_and_unload remove_parametrizations remove_weight_norm remove_spectral_norm"
    ),
    "jl.transforms.prune(model), and magnitude_masks": "prune_low_magnitude l1_unstructured",
    "jl.transforms.quantize(model)": (
        "quantize_dynamic BitsAndBytesConfig Linear8bitLt Linear4bit QuantizedDense Int8Linear"
    ),
    "jl.transforms.ema(model, decay), or train_step(..., ema=decay)": "AveragedModel PolyakAverage",
}

LEAVING = {
    "jl.export.onnx(model, params, state, x, path)": "export_onnx",
    "jl.interop.export_state_dict(model, x, params, state)": "torch to_torch keras flax state_dict",
    "jl.plain(model), for converters": "tflite tensorflow openvino coreml saved_model jax2tf",
    "jl.save_model(path, model, params, state)": "save",
}

MODELS = {
    f"a model of jl.models, and params, state = {_MATCH}": (
        "from_pretrained AutoModel AutoModelForCausalLM load_pretrained"
    ),
    "jl.models.ResNet(50): the depth is an argument": (
        "ResNet18 ResNet34 ResNet50 ResNet101 ResNet152 "
        "resnet18 resnet34 resnet50 resnet101 resnet152"
    ),
    "jl.models.GPT2('small')": "GPT GPT2Model GPT2LMHeadModel",
    "jl.models.BERT('base')": "BertModel",
    "jl.models.BERT('base', head='ids')": "BertForMaskedLM",
    "jl.models.ViT('base')": "VisionTransformer vit_b_16",
    "jl.models.Llama('llama-2-7b')": "LlamaForCausalLM",
    "jl.models.Llama(..., window=...)": "Mistral MistralForCausalLM",
    "jl.models.Llama('mixtral-8x7b')": "Mixtral MixtralForCausalLM",
}
