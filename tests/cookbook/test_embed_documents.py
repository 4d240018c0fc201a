"""The recipe of the embedding on a pool of processes: the same vectors as on the loop, in the order of the texts."""

import math
import re

import pytest
import trio
from embed_documents import DIMENSIONS, embed, embed_all, read_sections

from trioflow import ParallelError

TEXTS = ["the cat sat", "cats sit", "budgets of tokens", "", "the cat sat", "ÄÖÜ 12 !?"] * 5


async def test_vectors_are_those_of_the_loop_in_the_order_of_the_texts():
    with trio.fail_after(50):
        vectors = await embed_all(TEXTS)
    assert vectors == [embed(text) for text in TEXTS]


def test_a_vector_has_length_one_and_likes_its_like():
    cat, cats, tokens = (embed(text) for text in TEXTS[:3])
    assert len(cat) == DIMENSIONS
    assert math.isclose(math.hypot(*cat), 1)

    def likeness(one, other):
        return sum(map(float.__mul__, one, other))

    assert likeness(cat, cats) > likeness(cat, tokens) + 0.1
    assert likeness(cats, embed("The CATS, they sit")) > 0.5
    assert set(embed("")) == {0.0}


def test_documents_are_cut_at_their_headings(tmp_path):
    (tmp_path / "page.md").write_text("# One\n\nfirst\n\n## Two\n\n# not a heading of a section\n\nsecond\n")
    assert [title for title, _ in read_sections(tmp_path)] == ["page.md: One", "page.md: Two"]


async def test_a_text_that_cannot_be_embedded_says_so():
    with trio.fail_after(50), pytest.raises(ParallelError, match="NoneType"):
        await embed_all([None])


async def test_the_program_finds_the_page(run_recipe):
    output = await run_recipe("embed_documents.py", "budgets of tokens")
    head, *found = output.splitlines()
    assert re.fullmatch(r"\d+ sections in [\d.]+ s on \d+ processes", head)
    assert len(found) == 5
    assert any("limit.md" in line for line in found), output


