"""User text made one safe, bounded line."""

import tracemalloc

import pytest

import trioflow._text as text_module
from trioflow._text import clip, describe_error, escape, escape_surrogates, one_line, show, without_secrets


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("plain text, ünïcödé 漢字 🙂", "plain text, ünïcödé 漢字 🙂"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x00\x1b[31m\x7f", "\\x00\\x1b[31m\\x7f"),
        ("\x80\x85\x9f\xa0", "\\x80\\x85\\x9f\xa0"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\u202e\u2066\u200f\u061c", "\\u202e\\u2066\\u200f\\u061c"),
        ("\ud800x\udfff", "\\ud800x\\udfff"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_escape(raw, safe):
    assert escape(raw) == safe


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory", "memory"),
        ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db"),
        ("postgresql://host:5432/runs", "postgresql://host:5432/runs"),
        ("postgresql://me@host/runs", "postgresql://me@host/runs"),
        ("postgresql://me:secret@host/runs", "postgresql://me:…@host/runs"),
        ("postgresql://me:se:c/r@e\nt@host:1/runs", "postgresql://me:…@host:1/runs"),
        ("postgresql://host/runs?password=se=cret&user=me", "postgresql://host/runs?password=…&user=me"),
        ("postgresql://host/runs?user=me&SSLPassword=secret", "postgresql://host/runs?user=me&SSLPassword=…"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url, shown):
    assert without_secrets(url) == shown


def test_escape_surrogates_leaves_everything_else():
    assert escape_surrogates("a\n\ud83d") == "a\n\\ud83d"


def test_clip_cuts_to_199_and_an_ellipsis():
    assert clip("x" * 200) == "x" * 200
    assert clip("x" * 201) == "x" * 199 + "…"


def test_one_line_escapes_before_it_clips():
    assert one_line("\n" * 150) == "\\n" * 99 + "\\" + "…"


@pytest.mark.parametrize("text", ["x" * 10_000_000, "\x1b" * 1_000_000, "\n" + "é" * 1_000_000])
def test_one_line_escapes_no_more_of_a_long_text_than_what_is_shown(text, monkeypatch):
    whole = clip(escape(text))
    escaped = []
    monkeypatch.setattr(text_module, "escape", lambda part: (escaped.append(len(part)), escape(part))[1])
    assert one_line(text) == whole
    assert escaped == [201]


@pytest.mark.parametrize("value", ["x" * 10_000_000, b"\x00" * 10_000_000])
def test_show_writes_no_more_of_a_long_text_than_what_is_shown(value):
    whole = clip(repr(value))
    tracemalloc.start()
    try:
        assert show(value) == whole
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


def test_describe_error_falls_back_to_the_type():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert describe_error(ValueError("boom")) == "boom"
    assert describe_error(ValueError()) == "ValueError"
    assert describe_error(Mute()) == "Mute"
