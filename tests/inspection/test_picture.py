"""picture: valid XML, boxes that do not overlap, frames around what is theirs, and the texts."""

import itertools
import pathlib
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import pytest
from error_text import each, read
from tables.instances import INSTANCES

import jlayers as jl
from jlayers.inspection.drawing.wiring import INPUT, wiring

ROOT = pathlib.Path(__file__).parents[2]
X = jl.spec((8, 16))
BLOCK = jl.residual(jl.serial(jl.LayerNorm(), jl.Dense(64), jax.nn.gelu, jl.Dense(32)))
MODEL = jl.serial(
    stem=jl.Dense(32),
    towers=jl.concat(a=jl.Dense(16), b=jl.serial(jl.Dense(8), jax.nn.tanh, jl.Dense(16))),
    blocks=jl.repeat(BLOCK, 12),
    skip=jl.residual(jl.Dense(32), jl.Dense(32)),
    mixed=jl.TransformerBlock(jl.Dense(32), jl.serial(jl.Dense(8), jl.Dense(32))),
    heads=jl.branch(jl.Dense(10), jl.serial(jl.Dropout(0.1), jl.Dense(1)), lambda x: x < 1),
)
# The picture on the page, with its model there.
SMALL = jl.serial(
    stem=jl.Dense(32), blocks=jl.repeat(BLOCK, 12), heads=jl.branch(jl.Dense(10), jl.Dense(1))
)


def body_of_gates(f, x):
    return f.c(f.a(x) + f.b(x)) * x


OTHERS = [
    jl.Dense(3),
    jl.serial(),
    jl.repeat(jl.Dense(16), 4, shared=True),
    jl.remat(jl.serial(jl.Dense(4), jl.Dense(2))),
    jl.ensemble(jl.Dense(4), 3),
    jl.add(jl.Dense(4), jl.Dense(4)),
    jl.residual(jl.compose(lambda f, x: f.a(f.b(x)), a=jl.Dense(16), b=jl.Dense(4))),
    jl.serial(
        jl.Dense(16), mixed=jl.compose(body_of_gates, a=jl.Dense(8), b=jl.Dense(8), c=jl.Dense(16))
    ),
    jl.concat(jl.concat(*(jl.Dense(1) for _ in range(5))), jl.Dense(3)),
]


def inside(a, b):
    return (
        b.x <= a.x
        and b.y <= a.y
        and a.x + a.width <= b.x + b.width
        and a.y + a.height <= b.y + b.height
    )


def apart(a, b):
    return (
        a.x + a.width <= b.x
        or b.x + b.width <= a.x
        or a.y + a.height <= b.y
        or b.y + b.height <= a.y
    )


@pytest.mark.parametrize("model", [MODEL, *OTHERS], ids=lambda model: model.short()[:30])
@pytest.mark.parametrize("x", [X, None], ids=["shapes", "plain"])
def test_boxes_do_not_overlap_and_all_is_in_the_picture(model, x):
    check(jl.picture(model, x))


def test_every_layer_is_drawn():
    for row in INSTANCES.values():
        if not row.full:
            check(jl.picture(row.layer, row.x))


def check(picture):
    ElementTree.fromstring(picture.svg)
    block = picture.block
    for a, b in itertools.combinations(block.boxes, 2):
        nested = (b.kind == "frame" and inside(a, b)) or (a.kind == "frame" and inside(b, a))
        assert apart(a, b) or nested
    for box in block.boxes:
        assert box.x >= 0
        assert box.x + box.width <= block.width
        assert 0 <= box.y <= box.y + box.height <= block.height
        # A character is 6.7 pixels wide.
        assert all(6.7 * len(line) < box.width for line in box.lines)
    for line in block.lines:
        assert all(0 <= x <= block.width and 0 <= y <= block.height for x, y in line.points)
        # Straight and square: no line crosses a layer.
        for (x0, y0), (x1, y1) in itertools.pairwise(line.points):
            assert x0 == x1 or y0 == y1
            for box in block.boxes:
                if box.kind == "layer":
                    left, right = sorted((x0, x1))
                    top, bottom = sorted((y0, y1))
                    assert (
                        right <= box.x
                        or box.x + box.width <= left
                        or bottom <= box.y
                        or box.y + box.height <= top
                    )


def test_it_is_xml_with_the_texts_of_the_model():
    root = ElementTree.fromstring(jl.picture(MODEL, X).svg)
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "towers"
    for text in ("blocks  repeat x 12", "+", "concat", "float32[8, 64]", "input", "output"):
        assert text in texts
    assert f"{12 * (32 * 64 + 64):,} parameters" in texts
    assert "mixed" in texts
    assert "float32[8, 8]" in texts
    assert root[0].text.startswith("serial(")
    boxes = [node.get("class") for node in root.iter("{http://www.w3.org/2000/svg}rect")]
    leaves = [path for path, layer in jl.walk(MODEL) if not layer.children]
    assert boxes.count("layer") == len(leaves)
    plain = jl.picture(MODEL).svg
    assert "float32" not in plain
    assert "parameters" not in plain


def test_the_wiring_is_that_of_the_body():
    block = jl.TransformerBlock(jl.Dense(16), jl.Dense(16))
    calls, out = wiring(block, X)
    assert [(call.name, sorted(call.sources)) for call in calls] == [
        ("norm_attend", [INPUT]),
        ("attend", [0]),
        ("norm_mlp", [INPUT, 1]),
        ("mlp", [2]),
    ]
    assert sorted(out) == [INPUT, 1, 3]

    def body(f, x):
        y = f.b(jnp.where(x > 0, x, 0.0)) + 1.0
        return {"first": f.a(y) * x, "other": f.a(y * 2.0), "none": jnp.zeros(3)}

    calls, out = wiring(jl.compose(body, a=jl.Dense(16), b=jl.Dense(16)), X)
    assert [(call.name, sorted(call.sources)) for call in calls] == [
        ("b", [INPUT]), ("a", [0]), ("a", [0])
    ]  # fmt: skip
    assert sorted(out) == [INPUT, 1, 2]


def test_calls_in_a_loop_have_no_lines():
    def body(f, x):
        return jax.lax.fori_loop(0, 3, lambda _, y: f.a(y), f.a(x))

    layer = jl.compose(body, a=jl.Dense(16))
    assert wiring(layer, X) is None
    block = jl.picture(layer, X).block
    assert [box.lines[0] for box in block.boxes] == ["input", "compose", "a", "output"]
    # From the input to the frame, and from it to the output.
    assert len(block.lines) == 2


def test_a_second_call_is_marked():
    layer = jl.compose(lambda f, x: f.a(f.a(x)), a=jl.Dense(16))
    assert [box.lines[0] for box in jl.picture(layer, X).block.boxes] == [
        "input", "a", "a (again)", "output"
    ]  # fmt: skip


def test_repeat_has_a_line_around_its_body():
    block = jl.picture(jl.repeat(BLOCK, 12), jl.spec((8, 32))).block
    (around,) = [line for line in block.lines if len(line.points) == 4]
    (plus,) = [box for box in block.boxes if box.lines == ("+",)]
    layers = [box for box in block.boxes if box.kind == "layer"]
    assert all(around.points[1][0] > box.x + box.width for box in layers)
    assert around.points[-1] == (plus.x + plus.width, plus.y + plus.height / 2)


def test_depth_cuts_what_is_inside():
    kinds = [box.lines for box in jl.picture(MODEL, X, depth=1).block.boxes]
    assert [lines[0] for lines in kinds] == [
        "input", "stem", "towers", "blocks", "skip", "mixed", "heads", "output"
    ]  # fmt: skip
    assert any("parameters" in line for line in kinds[2])


def test_saving_and_notebooks(tmp_path):
    picture = jl.picture(jl.serial(jl.Dense(2), lambda x: x < 1), X)
    picture.save(tmp_path / "model.svg")
    assert (tmp_path / "model.svg").read_text(encoding="utf-8") == picture.svg
    assert picture._repr_svg_() == picture.svg
    assert "&lt;lambda" in picture.svg
    assert repr(picture).startswith("<picture of 4 boxes, ")


# ``make`` has no part in it: after a change, jl.picture(SMALL, X).save(...) by hand.
def test_the_picture_on_the_page_is_of_this_code():
    page = ROOT / "docs" / "images" / "model.svg"
    assert page.read_text(encoding="utf-8") == jl.picture(SMALL, X).svg


ERRORS = [
    (
        lambda: jl.picture(MODEL, X).save("model.png"),
        "save: the file of a picture is an SVG",
        "name.svg",
        "model.png",
    ),
    (lambda: jl.picture(MODEL, depth=0), "picture: depth must be a positive int, got 0"),
    (
        lambda: jl.picture(jl.serial(jl.Dense(2), jl.Conv(3, 3)), X),
        "Conv at 'conv': takes an array of rank 3 or more, got rank 2",
        "Conv(3, 3)",
    ),
]


@each(ERRORS)
def test_errors(case):
    read(case)
