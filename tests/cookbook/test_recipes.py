"""The recipe of tests by MockClock: its tests, as pytest runs them and as its program does."""

import re

import pytest

for package in ("anthropic", "httpx2", "openai", "starlette", "hypercorn"):
    pytest.importorskip(package, reason="the recipes that it tests need the SDKs: tests group")

import test_recipes as recipe  # noqa: E402 - may be missing

TESTS = {name: test for name, test in vars(recipe).items() if name.startswith("test_")}


@pytest.mark.parametrize("name", TESTS)
async def test_by_pytest(name, autojump_clock):
    await TESTS[name](autojump_clock)


def test_by_itself(capsys):
    recipe.main()
    lines = capsys.readouterr().out.splitlines()
    assert [re.fullmatch(r"(\w+): passed, at \d+ s", line)[1] for line in lines] == list(TESTS)
    assert len(TESTS) == 4
