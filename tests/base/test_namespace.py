"""What ``import jlayers as jl`` offers, what it loads, and what a word that is not there says."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import optax
import pytest

import jlayers as jl
from jlayers.base import answers

SUBPACKAGES = [
    "checkpoint",
    "data",
    "decoding",
    "export",
    "interop",
    "losses",
    "metrics",
    "models",
    "records",
    "sharding",
    "sklearn",
    "testing",
    "training",
    "transforms",
]


# Functions of a subpackage, which is imported with the first of them.
LATER = ["load_model", "save_model"]


def fresh(code):
    """What the code prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.split()


def test_tab_shows_public_names_alone():
    assert dir(jl) == sorted([*jl.__all__, *LATER, *SUBPACKAGES, "__version__"])
    assert all(hasattr(jl, name) for name in dir(jl))
    assert not any(name.startswith("_") for name in dir(jl) if name != "__version__")


def test_no_internal_module_is_an_attribute():
    for name in SUBPACKAGES:
        importlib.import_module(f"jlayers.{name}")
    public = {*SUBPACKAGES, "core", "inspection"}
    inside = {module.name for module in pkgutil.iter_modules(jl.__path__)}
    modules = {
        name
        for name, value in vars(jl).items()
        if isinstance(value, types.ModuleType) and value.__name__.startswith("jlayers")
    }
    assert inside > public
    assert modules == public
    assert not isinstance(getattr(jl, "fit", None), types.ModuleType)
    for name in inside - public:  # and yet they can be imported
        module = importlib.import_module(f"jlayers.{name}")
        assert not hasattr(jl, name)
        assert sys.modules[f"jlayers.{name}"] is module


def test_subpackages_load_at_their_first_use():
    code = (
        "import sys, jlayers as jl\n"
        "before = set(sys.modules)\n"
        f"print(*[n for n in {SUBPACKAGES} if 'jlayers.' + n in before], 'and')\n"
        "print(*[n for n in ('optax', 'safetensors', 'matplotlib') if n in before], 'and')\n"
        "jl.training.fit, jl.decoding.generate, jl.testing.check_layer\n"
        "jl.data, jl.checkpoint, jl.export, jl.interop, jl.models, jl.records, jl.sharding\n"
        "jl.sklearn, jl.transforms\n"
        f"print(*[n for n in {SUBPACKAGES} if 'jlayers.' + n in sys.modules])\n"
    )
    assert fresh(code) == ["and", "and", *SUBPACKAGES]


def test_interop_does_not_load_what_it_does_not_need():
    others = ["jlayers.export", "jlayers.training", "keras", "torch", "h5py", "onnx"]
    code = (
        f"import sys, jlayers as jl; jl.interop; print(*[n for n in {others} if n in sys.modules])"
    )
    assert fresh(code) == []


def test_star_takes_the_public_names():
    assert fresh("from jlayers import *; print(*sorted(n for n in dir() if n[0] != '_'))") == (
        sorted(jl.__all__)
    )


NAMES = {
    "TransformerEncoder": "jl.repeat(jl.TransformerBlock(attend, mlp), n)",
    "Rescaling": "lambda x: x * scale + offset",
    "DataParallel": "train_step(..., mesh=mesh, rules=jl.sharding.data_parallel('data'))",
    "Linear": "jl.Dense(features): sizes come from the input",
    "Sequential": "jl.serial(*layers)",
    "MultiHeadAttention": "jl.SelfAttention(num_heads), or jl.CrossAttention(num_heads)",
    "relu": "jax.nn.relu: any function of one array is a layer",
    "softmax": "jax.nn.softmax: any function of one array is a layer",
    "ReLU": "jax.nn.relu: any function of one array is a layer",
    "concatenate": "jl.concat(*layers)",
    "Conv2D": "jl.Conv: the rank comes from the input",
    "Conv2d": "jl.Conv: the rank comes from the input",
    "Conv2DTranspose": "jl.ConvTranspose: the rank comes from the input",
    "BatchNorm2d": "jl.BatchNorm: the rank comes from the input",
    "MaxPooling2D": "jl.MaxPool(window_shape): the rank comes from the input",
    "Module": "jl.compose(body, **children); a layer is a pair of functions, not a class",
    "autocast": "jl.transforms.precision(model, 'mixed')",
    "fit": "jl.training.fit",
    "generate": "jl.decoding.generate",
    "check_layer": "jl.testing.check_layer",
    "find_non_finite": "jl.inspection.find_non_finite",
    "Progress": "jl.records.Progress",
    "einsum": "jnp.einsum",
    "grad": "jax.grad",
    "dense": "did you mean jl.Dense?",
    "Dropuot": "did you mean jl.Dropout?",
    "Self_Attention": "did you mean jl.SelfAttention?",
    "NLLLoss": "jl.losses.cross_entropy of logits: no log_softmax before it",
    "SGD": "optax.sgd(0.1)",
    "AdamW": "optax.adamw",
    "warmup_cosine_decay_schedule": "optax.warmup_cosine_decay_schedule",
    "R2Score": "jl.metrics.r2_score",
    "EarlyStopping": "jl.training.EarlyStopping",
    "KerasClassifier": "jl.sklearn.Classifier(model)",
    "NeuralNetRegressor": "jl.sklearn.Regressor(model)",
    "GridSearchCV": "sklearn.model_selection, around jl.sklearn.Classifier(model)",
    "tree_at": "jl.rewrite(model, selector, lambda layer: ...)",
    "get_submodule": "model['encoder/attend'], by path or by number",
    # old names of this library
    "reach": "jl.receptive_field(model, x)",
    "Namespace": "jl.Scope",
    "Streamed": "jl.StepPair",
}


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_name_says_what_to_use(name):
    with pytest.raises(AttributeError) as caught:
        getattr(jl, name)
    assert str(caught.value).splitlines() == [
        f"module 'jlayers' has no attribute {name!r}",
        f"  hint:     {NAMES[name]}",
    ]
    assert not hasattr(jl, name)


def test_python_adds_no_suggestion_to_the_hint():
    """Python would say "Did you mean: 'Bilinear'?" after the hint for ``Linear``."""
    done = subprocess.run(
        [sys.executable, "-c", "import jlayers as jl; jl.Linear"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr.endswith("\n  hint:     jl.Dense(features): sizes come from the input\n")


def test_unknown_names_of_subpackages():
    with pytest.raises(AttributeError, match=r"(?s)'jlayers.training'.*training.CheckpointManager"):
        jl.training.Checkpoints  # noqa: B018
    with pytest.raises(AttributeError, match=r"(?s)hint: +did you mean decoding.generate\?"):
        jl.decoding.generatee  # noqa: B018


WORDS = {
    "interop": ("from_torch", "jl.interop.read(path)"),
    "models": ("ResNet50", "jl.models.ResNet(50)"),
    "export": ("tflite", "jl.plain(model), for converters"),
}


@pytest.mark.parametrize("package", WORDS)
def test_words_for_weights_and_models_of_other_libraries(package):
    word, answer = WORDS[package]
    with pytest.raises(AttributeError) as caught:
        getattr(getattr(jl, package), word)
    assert answer in str(caught.value)
    with pytest.raises(AttributeError, match=r"jl.interop.export_state_dict\(model, x, params"):
        jl.state_dict  # noqa: B018


def test_a_name_like_no_other_has_no_hint():
    with pytest.raises(AttributeError) as caught:
        jl.zzz  # noqa: B018
    assert str(caught.value) == "module 'jlayers' has no attribute 'zzz'"
    assert not hasattr(jl, "__wrapped__")


# What a library offers that users write models with; the rest is its machinery.
@pytest.mark.parametrize(
    ("module", "machinery"),
    [
        ("torch.nn", {"LinearCrossEntropyOptions"}),
        ("torch.optim", set()),
        ("keras.losses", {"Loss"}),
        ("keras.metrics", {"Metric"}),
        ("keras.optimizers", {"OptimizerMap"}),
        ("keras.callbacks", set()),
    ],
)
def test_names_of_other_libraries_are_answered(module, machinery, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    library = pytest.importorskip(module)
    classes = {name for name, value in vars(library).items() if inspect.isclass(value)}

    def answer(name):
        try:
            return getattr(jl, name)
        except AttributeError as error:
            return "hint" in str(error)

    assert {n for n in classes - machinery if n[0] != "_" and not answer(n)} == set()


# The tables of answers, held against what exists.

ANSWERS = [
    *(text for names in answers.NAMES.values() for text in names.values()),
    *answers.ARGUMENTS.values(),
    *(text for words in answers.ARGUMENTS_OF.values() for text in words.values()),
    *answers.POSITIONAL.values(),
    *answers.MISSING.values(),
]


def callables():
    """Every public function, and the public methods of public classes, by name."""
    modules = [jl, *(getattr(jl, name) for name in ("core", *SUBPACKAGES))]
    found = {}
    for module in modules:
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if callable(value):
                found[name] = value
            if inspect.isclass(value):
                found |= {
                    key: method
                    for key, method in vars(value).items()
                    if inspect.isfunction(method) and not key.startswith("_")
                }
    return found


def parameters():
    for function in callables().values():
        try:
            yield from inspect.signature(function).parameters
        except ValueError:  # a class that does not say
            continue


def test_answers_name_what_exists():
    roots = {"jl": jl, "jax": jax, "jnp": jnp, "training": jl.training, "core": jl.core}
    roots |= {"data": jl.data, "checkpoint": jl.checkpoint, "optax": optax}
    for text in ANSWERS:
        for root, path in re.findall(
            r"\b(jl|jax|jnp|training|core|data|checkpoint|optax)((?:\.\w+)+)", text
        ):
            value = roots[root]
            for name in path[1:].split("."):
                assert hasattr(value, name), text
                value = getattr(value, name)


def test_answers_are_for_names_that_do_not_exist():
    for module, names in answers.NAMES.items():
        assert [name for name in names if name in vars(importlib.import_module(module))] == []


def test_the_same_argument_exists():
    known = set(parameters())
    assert {new for words in answers.SAME_ARGUMENT.values() for new in words} - known == set()
    assert {*answers.ARGUMENTS_OF, *answers.POSITIONAL, *answers.MISSING} <= set(callables())
