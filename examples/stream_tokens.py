"""Words out of a node, to a web client, as they come: server-sent events beside a graph that runs.

Run it (`pip install h11` beside trioflow)::

    python examples/stream_tokens.py [--topic NAME] [--serve]

A node emits each word of its answer with `current_run().emit("token", text=...)`. An `EventStream` beside
`open_run` hands them to the task that writes to the connection. The run belongs to the request: a client that goes
away cancels it. With `--serve` it waits for other clients, such as `curl -N`.
"""

import argparse
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pydoc_data.topics import topics

import msgspec
import trio
from chat_server import CHUNK_SIZE, summarise

# isort: split
import h11  # where it is missing, chat_server has said so

from trioflow import EventStream, EventType, ExecutionError, GraphConfig, State, StateGraph, current_run

EVENT_STREAM = [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("connection", "close")]
graph = StateGraph(GraphConfig(name="answer"))


@graph.node
async def choose(state: State) -> State:
    """Take the text of the topic that was asked for."""
    await trio.lowlevel.checkpoint()
    return state.set("text", topics[state["topic"]])


@graph.node
async def answer(state: State) -> State:
    """Say the summary word by word, as a model does."""
    for word in summarise(state["text"]).split():
        await trio.sleep(0.03)
        current_run().emit("token", text=f"{word} ")
    return state


graph.add_edge("choose", "answer")
graph.set_entry_point("choose")
graph.set_exit_point("answer")


def main() -> int:
    """Read the command line, stream one answer or serve many, and return the exit status."""
    parser = argparse.ArgumentParser(description="Stream words out of a graph as server-sent events.")
    parser.add_argument("--topic", default="with", choices=sorted(topics), metavar="NAME", help="what to sum up")
    parser.add_argument("--serve", action="store_true", help="wait for clients until Ctrl-C")
    options = parser.parse_args()
    status = 0
    try:
        trio.run(demo, options.topic, options.serve)
    except* KeyboardInterrupt:
        print("stream tokens: interrupted", file=sys.stderr)
        status = 130  # what shells expect of a program that Ctrl-C ended
    return status


async def demo(topic: str, keep_serving: bool) -> None:  # noqa: FBT001 - trio.run calls by position
    """Open the server, and be its client or wait for others."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        if keep_serving:
            print(f"curl -N http://127.0.0.1:{port}/{topic}", flush=True)
            await trio.sleep_forever()
        await show(port, topic)
        nursery.cancel_scope.cancel()


async def serve(stream: trio.SocketStream) -> None:
    """Answer the one request of a connection with the events of a run."""
    connection = h11.Connection(h11.SERVER)
    async with stream:
        try:
            request = await receive(connection, stream)
            if isinstance(request, h11.Request):
                await answer_request(request.target.decode().strip("/"), partial(send, connection, stream))
        except* (trio.BrokenResourceError, h11.ProtocolError, ExecutionError) as ended:
            # a client that goes away or asks for nonsense, or a run that fails, ends this connection only
            print(f"stream tokens: a request ended early: {ended.exceptions[0]!r}", file=sys.stderr, flush=True)


async def answer_request(topic: str, send: Callable[..., Awaitable[None]]) -> None:
    """Run the graph for a topic, and send its words as they come."""
    if topic not in topics:
        await send(h11.Response(status_code=404, headers=[("content-length", "0")]), h11.EndOfMessage())
        return
    await send(h11.Response(status_code=200, headers=EVENT_STREAM))
    events = EventStream()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forward, events, send)
        async with graph.open_run(State(topic=topic), observer=events) as steps:
            path = [step.node async for step in steps]
        events.close()
    await send(server_sent("done", {"path": path, "dropped": events.dropped}), h11.EndOfMessage())


async def forward(events: EventStream, send: Callable[..., Awaitable[None]]) -> None:
    """Send what the nodes emit, until the run has ended; a client that is gone ends it, and with it the run."""
    async for event in events:
        if event.type is EventType.CUSTOM:
            await send(server_sent(event.data["name"], event.data["data"]))


def server_sent(name: str, data: dict[str, object]) -> h11.Data:
    """Return an event as browsers' EventSource reads it."""
    return h11.Data(data=f"event: {name}\ndata: {msgspec.json.encode(data).decode()}\n\n".encode())


async def show(port: int, topic: str) -> None:
    """Ask the server, and print the words as they come."""
    connection, rest = h11.Connection(h11.CLIENT), b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        get = h11.Request(method="GET", target=f"/{topic}", headers=[("host", f"127.0.0.1:{port}")])
        await send(connection, stream, get, h11.EndOfMessage())
        while not isinstance(event := await receive(connection, stream), h11.EndOfMessage):
            *complete, rest = (rest + getattr(event, "data", b"")).split(b"\n\n")
            for name, data in (part.decode().split("\ndata: ") for part in complete):
                said = msgspec.json.decode(data)
                print(said["text"] if name == "event: token" else f"\n\n{name}, {said}\n", end="", flush=True)


async def receive(connection: h11.Connection, stream: trio.SocketStream) -> object:
    """Return the next event of a connection."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await stream.receive_some(CHUNK_SIZE))
    return event


async def send(connection: h11.Connection, stream: trio.SocketStream, *events: h11.Event) -> None:
    """Write events to a connection, at once."""
    await stream.send_all(b"".join(connection.send(event) or b"" for event in events))


if __name__ == "__main__":
    # Where SIGINT was ignored, as under nohup, Python leaves it so: Ctrl-C ends an example everywhere.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
