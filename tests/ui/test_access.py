"""Who may look, and who may change: the token, its cookie, and what a change must carry."""

import re

import pytest

pytest.importorskip("starlette", reason="the page needs the extra ui")
pytest.importorskip("hypercorn", reason="the page needs the extra ui")

import httpx
import trio

from trioflow import ConfigError
from trioflow.checkpoint.sqlite import SqliteStore
from trioflow.ui import serve_page
from trioflow.ui._app import make_app
from trioflow.ui._reader import Reader
from trioflow.ui._serving import is_loopback
from trioflow.ui._views import Views


@pytest.fixture
def path(tmp_path):
    async def fill():
        async with SqliteStore(tmp_path / "runs.db") as store:
            await store.save_items("r", await store.claim("r"), [("a", b"")])

    trio.run(fill)
    return tmp_path / "runs.db"


def client_of(path, **options):
    app = make_app(Views(Reader(f"sqlite:///{path}"), (), show_data=False), "sqlite:///runs.db", **options)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://10.0.0.1:8765")


PATHS = ("/", "/page.js", "/page.css", "/api/runs", "/api/run?id=r", "/api/items?id=r", "/live/runs", "/nowhere")


async def test_without_the_token_nothing_is_answered(path):
    async with client_of(path, token="s3cret", port=8765, names=None) as client:
        for asked in (*PATHS, "/?token=", "/?token=s3cre", "/?token=s3cret2", "/?Token=s3cret", "/?token=%C3%A9", "/?token=x&token=s3cret"):
            for cookie in ("", "trioflow_8765=s3cret", "trioflow_8765=", "other=1", "trioflow_8765=\u00e9", ";;=;\x01"):
                answer = await client.get(asked, headers={"cookie": cookie.encode()})
                assert answer.status_code == 403
                assert "set-cookie" not in answer.headers
                assert "default-src 'none'" in answer.headers["content-security-policy"]
        for change in ("/api/answer", "/api/cancel"):
            assert (await client.post(change)).status_code == 403


async def test_the_first_visit_gives_a_cookie_that_is_not_the_token(path):
    async with client_of(path, token="s3cret é&", port=8765, names=None) as client:
        answer = await client.get("/", params={"token": "s3cret é&"})
        assert answer.status_code == 200
        cookie = answer.headers["set-cookie"]
        assert re.fullmatch(r"trioflow_8765=[0-9a-f]{64}; Path=/; HttpOnly; SameSite=Strict", cookie)
        assert "set-cookie" not in (await client.get("/api/runs")).headers
        for asked in ("/page.js", "/api/runs", "/api/run?id=r"):
            assert (await client.get(asked)).status_code == 200
    async with client_of(path, token="another", port=8765, names=None) as client:
        assert (await client.get("/", headers={"cookie": cookie.partition(";")[0]})).status_code == 403


async def test_a_token_is_compared_in_constant_time(path, monkeypatch):
    import secrets

    compared = []

    def comparing(one, other):
        compared.append((one, other))
        return original(one, other)

    original = secrets.compare_digest
    monkeypatch.setattr(secrets, "compare_digest", comparing)
    async with client_of(path, token="s3cret", names=None) as client:
        await client.get("/?token=s3")
        await client.get("/", headers={"cookie": "trioflow_0=x"})
    assert len(compared) == 2
    assert all(len(other) == 64 for _, other in compared)
    assert len(compared[0][0]) == 64  # not even how long it is shows


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "10.0.0.1", "example.com", "127.0.0.1.example.com", "2130706433"])
async def test_another_address_needs_a_token(path, host):
    with pytest.raises(ConfigError, match="host"):
        await serve_page(f"sqlite:///{path}", host=host)
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"token": ""}, "token"), ({"token": 3}, "token"), ({"host": ""}, "host"), ({"write": 1}, "write"), ({"show_data": None}, "show_data")],
)
async def test_what_cannot_be_meant_is_refused(path, options, named):
    with pytest.raises(ConfigError, match=named):
        await serve_page(f"sqlite:///{path}", **options)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_addresses_of_this_machine_alone(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200), ("127.0.0.1:8765", 200), ("LOCALHOST:1", 200), ("[::1]:8765", 200), ("[::1]", 200),
        ("", 400), ("evil.example", 400), ("127.0.0.1.evil.example", 400), ("[::1", 400), ("::1", 400), ("localhost@evil.example", 400),
        ("evil.example@localhost", 200),  # no browser sends it; the name is this machine's
    ],
)  # fmt: skip
async def test_only_this_machine_s_names_are_answered(path, host, status):
    async with client_of(path) as client:
        assert (await client.get("/api/runs", headers={"host": host})).status_code == status


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost"])
async def test_it_is_served_at_another_address_with_a_token(path, host):
    async with trio.open_nursery() as nursery:

        async def served(task_status):
            await serve_page(f"sqlite:///{path}", host=host, token="s3cret", task_status=task_status)

        address = await nursery.start(served)
        port = re.search(r":(\d+)/$", address)[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert (await client.get("/")).status_code == 403
            assert (await client.get("/?token=s3cret")).status_code == 200
            assert client.cookies[f"trioflow_{port}"]
            assert (await client.get("/api/runs")).json()["total"] == 1
            # Behind a name of the user's own; there the token is what keeps other sites' pages out.
            named = await client.get("/api/runs", headers={"host": "runs.example"})
            assert named.status_code == (200 if host == "0.0.0.0" else 400)
        nursery.cancel_scope.cancel()


def test_the_command_refuses_it_in_a_line(path, capsys, monkeypatch):
    pytest.importorskip("cyclopts", reason="the command line needs the extra cli")
    from trioflow.cli import main

    monkeypatch.delenv("TRIOFLOW_UI_TOKEN", raising=False)
    assert main(["ui", "--store", f"sqlite:///{path}", "--host", "0.0.0.0"]) == 2
    assert capsys.readouterr().err == (
        "trioflow: host must be a loopback address, such as 127.0.0.1, unless there is a token, got '0.0.0.0'\n"
    )
