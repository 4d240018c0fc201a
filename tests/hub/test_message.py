"""Messages: their ids, their answers, and their way through JSON and MessagePack."""

import os
import sys
import threading
import time
import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioflow import Message, MessageType, Priority
from trioflow.hub import message as module
from trioflow.hub.message import new_id

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def test_ids_are_uuids_of_version_7_that_sort_by_time():
    before = time.time_ns() // 1_000_000
    ids = [new_id() for _ in range(20_000)]
    after = time.time_ns() // 1_000_000
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    for one in map(uuid.UUID, (ids[0], ids[-1])):
        assert (one.version, one.variant) == (7, uuid.RFC_4122)
        assert before <= one.int >> 80 <= after


def test_ids_go_on_rising_when_the_clock_goes_back(monkeypatch):
    first = new_id()
    monkeypatch.setattr(module.time, "time_ns", lambda: 1_000_000)
    assert new_id() > first


def test_ids_rise_between_threads():
    last = [""]
    lock = threading.Lock()
    behind = []

    def draw():
        for _ in range(2_000):
            seen = last[0]
            drawn = new_id()
            if drawn <= seen:
                behind.append((seen, drawn))
            with lock:
                last[0] = max(last[0], drawn)

    threads = [threading.Thread(target=draw) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not behind


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_draws_ids_of_its_own(monkeypatch):
    now = time.time_ns()
    monkeypatch.setattr(module.time, "time_ns", lambda: now)
    kept = new_id(), module._Ids.current
    module._Ids.forget()
    mine = new_id()
    module._Ids.current = kept[1]
    assert new_id() != mine


@given(data=PLAIN, headers=st.dictionaries(st.text(), st.text()), priority=st.sampled_from(Priority), topic=st.none() | st.text())
def test_messages_come_back_from_json_and_msgpack(data, headers, priority, topic):
    message = Message(
        sender="a", recipient="b", hub="h", data=data, headers=headers, priority=priority, topic=topic, type=MessageType.REQUEST
    )
    for codec in (msgspec.json, msgspec.msgpack):
        assert codec.decode(codec.encode(message), type=Message) == message


def test_a_reply_answers_its_request():
    request = Message(hub="h", sender="user", recipient="planner", type=MessageType.REQUEST, priority=Priority.HIGH)
    reply = request.reply({"plan": 1}, headers={"trace": "t"})
    assert (reply.sender, reply.recipient, reply.reply_to, reply.hub) == ("planner", "user", request.id, "h")
    assert (reply.type, reply.data, reply.headers, reply.priority) == ("response", {"plan": 1}, {"trace": "t"}, Priority.HIGH)
    assert reply.id > request.id


def test_messages_cannot_be_changed():
    message = Message(sender="a", recipient="b")
    with pytest.raises(AttributeError):
        message.data = 1
