"""The rows about decoding compare what computes the same. No timing is tested here."""

import pytest

from bench import decoding, groups, tables
from bench.data import default_promotion
from bench.frameworks.sizes import Transformer

# Warnings from other libraries are not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore")
# More than ten blocks: their names are sorted as words somewhere.
TINY = Transformer(batch=2, steps=16, vocabulary=11, width=8, heads=2, blocks=11)


@pytest.mark.full
def test_all_decoders_find_the_same_ids_as_likely(monkeypatch):
    pytest.importorskip("flax")
    monkeypatch.setattr("bench.floors._best", lambda call, **options: (call(), 1e-3)[1])
    with default_promotion():
        row = decoding.measure(2, 0.01, 3, TINY)
        losses = [decoding.prepared(make, TINY).first_losses for make in decoding.DECODERS.values()]
    assert [entry["status"] for entry in row["frameworks"].values()] == ["ok"] * 3
    for own in losses[1:]:
        assert own == pytest.approx(losses[0], rel=1e-4)
    assert len(set(losses[0])) == decoding.JUDGED
    ((table, _),) = tables.group_tables({"decode-2": row})
    assert "x nnx" in table.lines[0][3]


def test_what_is_needed_are_the_weights_and_what_the_cache_holds():
    flops, traffic = decoding.needs(TINY)
    held = 2 * 11 * 2 * 12 * 8  # both kinds, blocks, batch, steps, width
    block = 4 * (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8) + 4 * 8
    matrices = 11 * block + 2 * 8 + (8 * 11 + 11)
    assert traffic == 4 * (matrices + held)
    assert flops == 2 * 2 * matrices + 2 * held


def test_the_rows_are_found():
    assert groups.choose(["decoding"], groups.entries()) == list(decoding.ROWS)
