"""The page in a real browser: Debian's chromium, without a window, told what to do through a pair of pipes."""

import base64
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the page needs the extra ui")
pytest.importorskip("hypercorn", reason="the page needs the extra ui")
pytest.importorskip("cyclopts", reason="the command line needs the extra cli")

import apsw
import msgspec
import trio

import trioflow
from trioflow import (
    CheckpointConfig,
    GraphConfig,
    ParallelConfig,
    State,
    StateGraph,
    parallel_node,
    process_parallel,
)
from trioflow.checkpoint.protocol import Checkpoint
from trioflow.checkpoint.session import Session
from trioflow.checkpoint.sqlite import SqliteStore

LIBRARY = str(Path(trioflow.__file__).parents[1])
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed: the page is not looked at"),
]

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"

GRAPH = """
import sys
from trioflow import CheckpointConfig, GraphConfig, State, StateGraph, pause
import trio

kept = CheckpointConfig(store="sqlite:///runs.db", interval=1, preserve=True)
graph = StateGraph(GraphConfig(name="letter", checkpoint=kept, observer="noop"))


@graph.node
async def draft(state):
    await trio.sleep(state["slow"] if state.get("tries") else 0)
    return state.set("tries", state.get("tries", 0) + 1)


@graph.node
async def ask(state):
    if "answer" not in state:
        pause({"question": "Send it to <b>Ada</b>?"})
    return state


@graph.node
async def send(state):
    return state.set("sent", state["answer"])


@graph.node
async def drop(state):
    return state


graph.set_entry_point("draft")
graph.add_edge("draft", "draft", lambda state: state["tries"] < 3, "again")
graph.add_edge("draft", "ask")
graph.add_edge("ask", "send", lambda state: state["answer"] == "yes", "yes")
graph.add_edge("ask", "drop")
graph.set_exit_point("send")
graph.set_exit_point("drop")

if __name__ == "__main__":
    what, run_id, slow = sys.argv[1:]
    if what == "begin":
        result = trio.run(graph.execute, State(slow=float(slow)), run_id)
    else:
        result = trio.run(graph.resume, run_id)
    print(result.status)
"""


class Browser:
    """One window of one browser."""

    def __init__(self, folder):
        (theirs, ours_out), (ours_in, their_out) = os.pipe(), os.pipe()
        self._in, self._out, self._left = ours_in, ours_out, b""
        # What it reads and writes must be 3 and 4; only what runs in the child can see to that.
        launcher = "import os, sys; r, w = map(int, sys.argv[1:3]); r2, w2 = os.dup(r), os.dup(w); os.dup2(r2, 3); os.dup2(w2, 4); os.set_inheritable(3, True); os.set_inheritable(4, True); os.execv(sys.argv[3], sys.argv[3:])"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"]
        command = [sys.executable, "-c", launcher, str(theirs), str(their_out), CHROMIUM, *flags, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            command, pass_fds=(theirs, their_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        os.close(theirs)
        os.close(their_out)
        self._number = 0
        self.happened = []
        self._session = None
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self):
        targets = self.ask("Target.getTargets")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def close(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def ask(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + 30
        while True:
            answer = self._receive(until)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            if "method" in answer:
                self.happened.append(answer)

    def _receive(self, until):
        while b"\0" not in self._left:
            assert select.select([self._in], [], [], max(0.0, until - time.monotonic()))[0], "the browser does not answer"
            part = os.read(self._in, 1 << 16)
            assert part, "the browser is gone"
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def run(self, script):
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition, seconds=20):
        """Wait until the page is so, and return how long that took."""
        began = time.monotonic()
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() - began < seconds, f"{condition}: {self.run('document.body.innerText')}\n{self.complaints()}"
            time.sleep(0.02)
        return time.monotonic() - began

    def open(self, address):
        self.ask("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && document.querySelector('#live')?.textContent !== 'reading …'")

    def text(self, selector="body"):
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def show(self, path, *, width=1100, height=800, dark=False):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        time.sleep(0.3)
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=False)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def complaints(self):
        """What the page did that it should not: an error, a dialog, something that its policy forbids."""
        self.run("0")
        said = {"Runtime.exceptionThrown", "Page.javascriptDialogOpening", "Log.entryAdded"}
        return [each for each in self.happened if each["method"] in said]

    def foreign(self, address):
        urls = [each["params"]["request"]["url"] for each in self.happened if each["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith((address, "data:"))]


@pytest.fixture
def browser(tmp_path):
    window = Browser(tmp_path / "profile")
    yield window
    window.close()


@contextmanager
def served(folder, *flags, port="0"):
    command = [sys.executable, "-m", "trioflow", "ui", "--store", "sqlite:///runs.db", "--port", port, *flags]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([LIBRARY, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield re.search(r"http://[\d.]+:\d+/", process.stdout.readline())[0]
        finally:
            process.kill()


def program(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([LIBRARY, os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, "letters.py", *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )


def finished(process):
    return process.communicate(timeout=40)[0].strip()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "letters.py").write_text(GRAPH)
    return tmp_path


async def save(path, run_id, status, *, graph="letter", node="draft", next_node="ask", kind="graph", pause=None, step=1):
    async with SqliteStore(path) as store:
        session = await Session.claim(store, run_id)
        state = msgspec.msgpack.encode({"to": HOSTILE})
        await session.save(
            Checkpoint(
                run_id=run_id, graph=graph, kind=kind, step=step, node=node, next_node=next_node, iterations=step,
                state=state, status=status, pause=pause, created_at=time.time(),
            )
        )  # fmt: skip


def row(run_id):
    return f"document.querySelector('#runs tr[data-key=\"{run_id}\"]')"


def test_the_list_is_shown_and_a_new_run_comes_by_itself(browser, folder):
    trio.run(save, folder / "runs.db", "first", "running")
    with served(folder) as address:
        browser.open(address)
        assert browser.text("#runs tr a") == "first"
        assert browser.text("#live") == "live"
        browser.run("document.querySelector('#runs tr').id = 'same'")
        trio.run(save, folder / "runs.db", "second", "running")
        took = browser.wait(row("second"))
        assert took < 5
        trio.run(save, folder / "runs.db", "first", "completed")
        browser.wait(f"{row('first')}.innerText.includes('completed')")
        assert browser.run(f"{row('first')}.id") == "same"  # it was changed, not made anew
        assert browser.run("performance.getEntriesByType('resource').filter((each) => each.name.includes('/api/')).length") == 0
        assert browser.foreign(address) == []
        assert browser.complaints() == []


def test_a_page_that_is_served_no_more_says_so_and_comes_back(browser, folder):
    trio.run(save, folder / "runs.db", "first", "running")
    with served(folder) as address:
        browser.open(address)
    browser.wait("document.querySelector('#live').textContent === 'not live'")
    assert "no longer served" in browser.text("#problem")
    assert browser.text("#runs tr a") == "first"
    with served(folder, port=address.rstrip("/").rpartition(":")[2]):
        browser.wait("document.querySelector('#live').textContent === 'live'")
        assert browser.run("document.querySelector('#problem').hidden")


def test_a_run_that_is_killed_and_resumed_is_followed(browser, folder):
    first = program(folder, "begin", "letter-1", "60")
    try:
        while not (folder / "runs.db").exists():
            time.sleep(0.02)
        with served(folder, "--graph", "letters:graph") as address:
            browser.open(f"{address}#run=letter-1")
            browser.wait("document.querySelector('#steps tr[data-key=\"1\"]')")
            assert browser.run("document.querySelector('svg .here title').textContent") == "draft"
            first.kill()
            first.wait()
            assert "running" in browser.text("#facts")
            resumed = subprocess.run(
                [sys.executable, "-c", "import letters, trio; print(trio.run(lambda: letters.graph.resume('letter-1', update=lambda state: state.set('slow', 0.5))).status)"],
                cwd=folder, env=os.environ | {"PYTHONPATH": LIBRARY}, capture_output=True, text=True, timeout=40, check=True,
            )  # fmt: skip
            assert resumed.stdout == "paused\n"
            browser.wait("document.querySelector('#facts').innerText.includes('paused')")
            assert browser.run("document.querySelector('svg .here title').textContent") == "ask"
            assert browser.run("[...document.querySelectorAll('svg .seen title')].map((title) => title.textContent).join()") == "draft"
            assert "At node ask, for" in browser.text("#waits")
            assert "--show-data" in browser.text("#waits")
            assert "Ada" not in browser.text()
            assert browser.run("document.querySelector('#answer').hidden && document.querySelector('#changes').hidden")
            assert browser.complaints() == []
    finally:
        first.kill()
        first.communicate()


def test_a_pause_is_answered(browser, folder):
    assert finished(program(folder, "begin", "letter-1", "0")) == "paused"
    with served(folder, "--graph", "letters:graph", "--write", "--show-data") as address:
        browser.open(f"{address}#run=letter-1")
        browser.wait("!document.querySelector('#answer').hidden")
        assert '"question": "Send it to <b>Ada</b>?"' in browser.text("#asks")
        browser.run("document.querySelector('#update').value = '[1]'; document.querySelector('#answer').requestSubmit()")
        browser.wait("document.querySelector('#done').textContent.includes('JSON object')")
        browser.run("""document.querySelector('#update').value = '{"answer": "yes"}'; document.querySelector('#answer').requestSubmit()""")
        browser.wait("document.querySelector('#facts').innerText.includes('completed')")
        browser.wait("document.querySelector('#done').textContent === 'The page answered and resumed the run: completed.'")
        assert '"sent": "yes"' in browser.run("document.querySelector('#state pre').textContent")
        assert browser.run("[...document.querySelectorAll('svg .seen title')].map((title) => title.textContent).join()") == "draft,ask,send"
        assert browser.run("document.querySelector('#answer').hidden && document.querySelector('#cancel').hidden")
        assert browser.complaints() == []


def test_an_answer_that_leads_to_the_same_pause_again_says_so_each_time(browser, folder):
    assert finished(program(folder, "begin", "letter-1", "0")) == "paused"
    with served(folder, "--graph", "letters:graph", "--write", "--show-data") as address:
        browser.open(f"{address}#run=letter-1")
        for number in range(2):
            browser.wait("!document.querySelector('#answer').hidden")
            update = f'{{"aside": {number}}}'
            browser.run(f"document.querySelector('#update').value = '{update}'; document.querySelector('#answer').requestSubmit()")
            browser.wait(f"document.querySelector('#state pre').textContent.includes('\"aside\": {number}')")
            browser.wait("document.querySelector('#done').textContent === 'The page answered and resumed the run: paused.'")
        assert browser.complaints() == []


def test_a_run_is_cancelled_after_a_second_click(browser, folder):
    worker = program(folder, "begin", "letter-1", "2")
    try:
        while not (folder / "runs.db").exists():
            time.sleep(0.02)
        with served(folder, "--write") as address:
            browser.open(f"{address}#run=letter-1")
            browser.wait("!document.querySelector('#cancel').hidden")
            browser.run("document.querySelector('#cancel').click()")
            assert "really" in browser.text("#cancel")
            browser.run("document.querySelector('#cancel').click()")
            browser.wait("document.querySelector('#facts').innerText.includes('cancelled')")
            assert "can save no more" in browser.text("#done")
            drawn = "getComputedStyle(document.querySelector('svg .here .box')).stroke"
            assert browser.run(drawn) == browser.run("getComputedStyle(document.querySelector('#facts .cancelled')).color")
            worker.communicate(timeout=40)
            assert worker.returncode != 0  # it lost the run, and its process knows
    finally:
        worker.kill()
        worker.communicate()


def test_hostile_texts_are_texts(browser, folder):
    path = folder / "runs.db"
    hostile = {"graph": HOSTILE, "node": HOSTILE, "next_node": HOSTILE, "status": HOSTILE, "pause": msgspec.msgpack.encode(HOSTILE)}
    trio.run(lambda: save(path, HOSTILE, **hostile))
    trio.run(lambda: save(path, f"paused {HOSTILE}", **hostile | {"status": "paused"}))
    trio.run(lambda: save(path, f"failed {HOSTILE}", **hostile | {"status": "failed"}))
    kind = type(HOSTILE, (Exception,), {})
    trio.run(lambda: fan_out(path, "fan", {0: HOSTILE}, 1, kind=kind, key=lambda item: HOSTILE))
    with served(folder, "--show-data", "--write") as address:
        browser.open(address)
        assert HOSTILE in browser.text("#runs")
        for run_id in (HOSTILE, f"paused {HOSTILE}", f"failed {HOSTILE}"):
            browser.run(f"location.hash = 'run=' + encodeURIComponent({json.dumps(run_id)})")
            browser.wait(f"document.querySelector('#name').textContent === {json.dumps(run_id)}")
            assert HOSTILE in browser.text("#steps")
            assert HOSTILE in browser.run("document.querySelector('#state pre').textContent")
        browser.run("location.hash = 'run=fan'")
        browser.wait("document.querySelectorAll('#categories tr').length === 1")
        assert shown_categories(browser) == [["1", HOSTILE, HOSTILE, HOSTILE]]
        browser.run("location.hash = 'run=' + encodeURIComponent('<script>alert(3)</script>')")
        browser.wait("document.querySelector('#problem').textContent.includes('there is no run')")
        assert browser.run("document.querySelectorAll('img, body script').length") == 0
        assert browser.complaints() == []


def test_failed_items_are_followed_by_category(browser, folder):
    path = folder / "runs.db"
    trio.run(fan_out, path, "fan", {0: "secret 0", 3: "route", 6: "route"})
    with served(folder) as address:
        browser.open(address)
        assert "6 of 9, 3 failed" in browser.text("#runs")
        browser.run("location.hash = 'run=fan'")
        browser.wait("document.querySelectorAll('#categories tr').length === 2")
        assert shown_categories(browser) == [["2", "OSError", "3", ""], ["1", "OSError", "0", ""]]
        assert browser.text("#failed-at") == "3 items failed."
        assert "--show-data" in browser.text("#failures-note")
        assert "6 of 9 succeeded, 3 failed." in browser.text("#items-state")
        assert "6 of 9" in browser.text("#facts")
        assert "secret" not in browser.run("document.documentElement.outerHTML")
        browser.run("document.querySelector('#categories tr').id = 'same'")
        trio.run(fan_out, path, "fan", {6: "route"})
        browser.wait("document.querySelectorAll('#categories tr').length === 1")
        assert shown_categories(browser) == [["1", "OSError", "6", ""]]
        assert browser.run("document.querySelector('#categories tr').id") == "same"
        browser.run("location.hash = ''")
        browser.wait(f"{row('fan')}?.innerText.includes('8 of 9, 1 failed')")
        trio.run(fan_out, path, "fan", {})
        browser.wait(f"{row('fan')}.innerText.includes('9 of 9') && !{row('fan')}.innerText.includes('failed')")
        browser.run("location.hash = 'run=fan'")
        browser.wait("document.querySelector('#items-state').innerText.includes('All 9')")
        assert browser.run("document.querySelector('#errors').hidden")
        assert browser.complaints() == []


def test_failed_items_are_shown_with_their_messages_where_that_is_asked_for(browser, folder):
    failing = {item: f"{item} is down" for item in range(130)}
    trio.run(fan_out, folder / "runs.db", "many", failing, 200)
    with served(folder, "--show-data") as address:
        browser.open(f"{address}#run=many")
        browser.wait("document.querySelectorAll('#categories tr').length === 100")
        assert shown_categories(browser)[0] == ["1", "OSError", "0", "0 is down"]
        assert browser.text("#failures-note") == "30 more failed with other messages."
        right = "document.querySelector('#{}').getBoundingClientRect().right"
        assert browser.run(right.format("failures")) == browser.run(right.format("items"))  # no room for a picture
        assert browser.complaints() == []


def test_failed_items_of_a_run_inside_a_run_that_completed_are_on_their_own_page(browser, folder):
    async def execute():
        config = GraphConfig(name="outer", observer="noop", checkpoint=CheckpointConfig(preserve=True))
        lenient = ParallelConfig(fail_fast=False)
        async with SqliteStore(folder / "runs.db") as store:
            graph = StateGraph(config, store=store)
            graph.add_node("fan", parallel_node(reject_odd, items=range(4), aggregate=lambda state, _: state, config=lenient))
            graph.set_entry_point("fan")
            graph.set_exit_point("fan")
            await graph.execute(State(), "outer")

    trio.run(execute)
    with served(folder) as address:
        browser.open(f"{address}#run=outer")
        browser.wait("document.querySelector('#failed-at').textContent === '1 run inside it failed.'")
        assert browser.text("#failures-note") == ""
        heads = "[...document.querySelectorAll('#inside th')].map((head) => head.textContent).join()"
        assert browser.run(heads) == "run,status,kind,graph,step,items,started,updated"
        assert "2 of 4, 2 failed" in browser.text("#children")
        browser.run("document.querySelector('#children a').click()")
        browser.wait("document.querySelector('#failed-at').textContent === '2 items failed.'")
        assert shown_categories(browser) == [["2", "ValueError", "1", ""]]
        assert browser.complaints() == []


async def reject_odd(number):
    if number % 2:
        raise ValueError("odd")
    return number


def test_a_narrow_page_explains_no_hidden_column_and_breaks_no_usual_name(browser, folder):
    async def work(item):
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, f"a long text {'that needs a few lines ' * 5}")

    async def fill():
        config = ParallelConfig(observer="noop", fail_fast=False, raise_if_all_failed=False, checkpoint=CheckpointConfig(preserve=True))
        async with SqliteStore(folder / "runs.db") as store:
            await process_parallel(range(3), work, config=config, store=store, run_id="fan")

    trio.run(fill)
    trio.run(save, folder / "runs.db", "letter-1", "running")
    with served(folder, "--show-data") as address:
        browser.ask("Emulation.setDeviceMetricsOverride", width=480, height=900, deviceScaleFactor=1, mobile=False)
        browser.open(f"{address}#run=letter-1")
        browser.wait("document.querySelectorAll('#steps tr').length === 1")
        assert "attempts" not in browser.text()
        browser.run("location.hash = 'run=fan'")
        browser.wait("document.querySelectorAll('#categories tr').length === 1")
        lines = "(() => { const range = document.createRange(); range.selectNodeContents(document.querySelector('#categories td:nth-child(2)')); return range.getClientRects().length; })()"
        assert browser.run(lines) == 1
        assert browser.run("document.documentElement.scrollWidth") == 480


def shown_categories(browser):
    cells = "[...row.children].map((cell) => cell.innerText)"
    return browser.run(f"[...document.querySelectorAll('#categories tr')].map((row) => {cells})")


async def fan_out(path, run_id, failing, count=9, *, kind=OSError, key=None):
    async def work(item):
        if item in failing:
            raise kind(failing[item])
        return item

    config = ParallelConfig(
        max_workers=1, observer="noop", fail_fast=False, raise_if_all_failed=False, checkpoint=CheckpointConfig(preserve=True)
    )
    async with SqliteStore(path) as store:
        await process_parallel(range(count), work, config=config, store=store, run_id=run_id, key=key)


@pytest.mark.parametrize("status", ["queued", "parked", "blocked", "some day's", "corrupt"])
def test_a_status_that_is_not_known_yet_is_shown(browser, folder, status):
    trio.run(save, folder / "runs.db", "run-1", status)
    with served(folder, "--write") as address:
        browser.open(address)
        assert status in browser.text("#runs")
        browser.run("location.hash = 'run=run-1'")
        browser.wait(f"document.querySelector('#facts').innerText.includes({json.dumps(status)})")
        assert browser.complaints() == []


def test_a_damaged_run_is_said_once_beside_the_others(browser, folder):
    trio.run(save, folder / "runs.db", "damaged", "running")
    trio.run(save, folder / "runs.db", "whole", "completed")
    db = apsw.Connection(str(folder / "runs.db"))
    db.execute("UPDATE checkpoints SET node = 'z' WHERE run = (SELECT number FROM runs WHERE run_id = 'damaged')")
    db.close()
    with served(folder) as address:
        browser.open(address)
        assert browser.text("#runs").count("corrupt") == 1
        assert "completed" in browser.text("#runs")
        browser.run("location.hash = 'run=damaged'")
        browser.wait("document.querySelector('#damage').textContent.includes('is damaged')")
        assert browser.text().count("is damaged") == 1


def test_a_store_that_is_damaged_meanwhile_is_said_and_what_was_seen_stays(browser, folder):
    path = folder / "runs.db"
    trio.run(save, path, "first", "running")
    with served(folder) as address:
        browser.open(address)
        whole = path.read_bytes()
        path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
        browser.wait("!document.querySelector('#problem').hidden")
        assert "damaged" in browser.text("#problem")
        assert browser.text().count("damaged") == 1
        assert browser.text("#runs tr a") == "first"
        path.write_bytes(whole)
        browser.wait("document.querySelector('#problem').hidden")
        assert browser.text("#live") == "live"
        assert browser.complaints() == []


def test_ten_thousand_runs(browser, folder, copy_run):
    trio.run(save, folder / "runs.db", "r", "completed")
    copy_run(folder / "runs.db", "r", 9_999)
    trio.run(save, folder / "runs.db", "last", "running")
    with served(folder) as address:
        began = time.monotonic()
        browser.open(address)
        assert time.monotonic() - began < 10
        assert browser.text("#range") == "1 to 200 of 10001"
        assert browser.run("document.querySelectorAll('#runs tr').length") == 200
        browser.run("document.querySelector('#older').click()")
        browser.wait("document.querySelector('#range').textContent === '201 to 400 of 10001'")
        browser.run("document.querySelector('#text').value = 'r77'; document.querySelector('#text').dispatchEvent(new Event('input'))")
        browser.wait("document.querySelectorAll('#runs tr').length === 111")
        trio.run(save, folder / "runs.db", "r77 news", "running")
        browser.wait(row("r77 news"))


def test_a_hundred_thousand_items(browser, folder):
    async def work(item):
        return item

    async def fill():
        config = ParallelConfig(max_workers=100, observer="noop", checkpoint=CheckpointConfig(preserve=True))
        async with SqliteStore(folder / "runs.db") as store:
            await process_parallel(range(100_000), work, config=config, store=store, run_id="many")

    trio.run(fill)
    with served(folder, "--show-data") as address:
        browser.open(f"{address}#run=many")
        browser.wait("document.querySelector('#items-state').textContent.includes('100000')")
        browser.run("document.querySelector('#items').open = true")
        browser.wait("document.querySelector('#items-range').textContent === '1 to 200 of 100000'")
        browser.run("document.querySelector('#items-after').click()")
        browser.wait("document.querySelector('#keys tr').innerText.startsWith('200')")
        assert browser.complaints() == []


def test_a_token_is_asked_for_once_and_leaves_the_address(browser, folder):
    trio.run(save, folder / "runs.db", "first", "running")
    with served(folder, "--token", "s3cret") as address:
        browser.ask("Page.navigate", url=address)
        browser.wait("document.body?.innerText.includes('needs its token')")
        browser.open(f"{address}?token=s3cret")
        browser.wait(row("first"))
        assert browser.run("location.href") == address
        browser.open(address)
        browser.wait(row("first"))
        assert browser.run("document.cookie") == ""
