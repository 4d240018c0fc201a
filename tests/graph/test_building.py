"""Building a graph: what is refused at once, what `validate` finds, and the picture of it."""

import dataclasses
import pickle
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioflow import (
    CheckpointConfig,
    ConfigError,
    GraphConfig,
    GraphError,
    State,
    StateGraph,
    all_of,
    always,
    any_of,
    branches_node,
    graph_node,
    key_equals,
    key_exists,
    not_,
)


async def same(state):
    return state


def make(name="test"):
    return StateGraph(GraphConfig(name=name, observer="noop"))


def faults(graph):
    with pytest.raises(GraphError) as caught:
        graph.validate()
    return caught.value.faults


def test_a_graph_without_anything_has_three_faults():
    assert faults(make()) == ["it has no nodes", "no entry point is set", "no exit point is set"]


def test_validate_lists_every_fault_at_once():
    graph = make("review\n")
    for name in ("start", "lost", "trap", "stop", "publish"):
        graph.add_node(name, same)
    graph.add_edge("start", "publsh")
    graph.add_edge("start", "trap")
    graph.add_edge("start", "publish")
    graph.add_edge("trap", "trap")
    graph.add_edge("start", "stop")
    graph.add_edge("nobody", "start")
    graph.set_entry_point("start")
    graph.set_exit_point("publish")
    graph.set_exit_point("end")
    with pytest.raises(GraphError) as caught:
        graph.validate()
    known = "known: 'start', 'lost', 'trap', 'stop', 'publish'"
    assert caught.value.faults == [
        f"an exit point is 'end', which is no node ({known})",
        f"an edge of 'start' leads to 'publsh', which is no node (did you mean 'publish'? {known})",
        f"an edge leaves 'nobody', which is no node ({known})",
        "node 'lost' cannot be reached from the entry point",
        "node 'lost' leads nowhere: it has no edges and is no exit point",
        "node 'trap' leads nowhere: no exit point can be reached from it",
        "node 'stop' leads nowhere: it has no edges and is no exit point",
    ]
    assert str(caught.value).startswith(r"graph 'review\n' cannot work: an exit point is 'end'")
    assert caught.value.graph == "review\n"


def test_what_lies_behind_an_exit_point_alone_cannot_be_reached():
    graph = make()
    graph.add_node("a", same)
    graph.add_node("b", same)
    graph.add_edge("a", "b")
    graph.set_entry_point("a")
    graph.set_exit_point("a")
    graph.set_exit_point("b")
    assert faults(graph) == ["node 'b' cannot be reached from the entry point"]


def test_an_unknown_entry_point_is_a_fault():
    graph = make()
    graph.add_node("a", same)
    graph.set_entry_point("b")
    graph.set_exit_point("a")
    assert faults(graph) == ["the entry point is 'b', which is no node (known: 'a')"]


def test_a_graph_can_be_mended_and_validated_again():
    graph = make()
    graph.add_node("a", same)
    graph.set_entry_point("a")
    assert len(faults(graph)) == 2
    graph.set_exit_point("a")
    graph.validate()
    graph.add_node("b", same)
    assert len(faults(graph)) == 2


async def test_a_graph_can_grow_between_two_runs():
    graph = make()
    graph.add_node("a", same)
    graph.set_entry_point("a")
    graph.set_exit_point("a")
    graph.set_exit_point("b")
    with pytest.raises(GraphError):
        await graph.execute(State())
    graph.add_node("b", same)
    graph.add_edge("a", "b")
    with pytest.raises(GraphError, match="'b' cannot be reached"):
        await graph.execute(State())

    grown = make()
    grown.add_node("a", same)
    grown.set_entry_point("a")
    grown.set_exit_point("c")
    grown.add_node("c", same)
    grown.add_edge("a", "c", lambda state: "far" not in state)
    await grown.execute(State())
    grown.add_node("d", same)
    grown.add_edge("a", "d")
    grown.add_edge("d", "c")
    assert (await grown.execute(State(far=1))).path == ["a", "d", "c"]
    grown.set_exit_point("d")
    assert (await grown.execute(State(far=1))).path == ["a", "d"]
    grown.add_edge("c", "a")
    grown.add_node("e", same)
    with pytest.raises(GraphError, match="'e'"):
        await grown.execute(State())


async def test_running_a_graph_with_faults_calls_nothing():
    graph = make()

    @graph.node
    async def a(state):
        raise AssertionError("called")

    graph.set_entry_point("a")
    for run in (lambda: graph.execute(State()), lambda: graph.open_run(State()).__aenter__()):
        with pytest.raises(GraphError, match="no exit point"):
            await run()


def test_the_faults_of_inner_graphs_are_listed_too():
    inner = make("inner")
    inner.add_node("only", same)
    outer = make("outer")
    outer.add_node("sub", graph_node(inner, lambda s: s, lambda s, i: i))
    inner.add_node("back", graph_node(outer, lambda s: s, lambda s, i: i))
    outer.set_entry_point("sub")
    outer.set_exit_point("sub")
    assert faults(outer)[:2] == [
        "in the graph of node 'sub': no entry point is set",
        "in the graph of node 'sub': no exit point is set",
    ]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda g: g.add_node("a", same), "graph 'test' cannot work: a node 'a' already exists"),
        (lambda g: g.add_node("", same), "the name of a node must be a non-empty string"),
        (lambda g: g.add_node("b", print), "the function of node 'b' must be an async function"),
        (lambda g: g.add_node("b", None), "the function of node 'b' must be an async function"),
        (lambda g: g.node("a")(same), "a node 'a' already exists"),
        (lambda g: g.add_edge("a", "b", when="yes"), "the predicate of the edge from 'a' to 'b' must be a plain function"),
        (lambda g: g.add_edge("a", "b", when=same), "the predicate of the edge from 'a' to 'b' must be a plain function"),
        (lambda g: g.add_edge("", "b"), "the source of the edge from '' to 'b' must be a non-empty string"),
        (lambda g: g.add_edge("a", 5), "the target of the edge from 'a' to 5 must be a non-empty string"),
        (lambda g: g.add_edge("a", "b", name=""), "the name of the edge from 'a' to 'b' must be"),
        (lambda g: g.set_entry_point("b"), "its entry point is already 'a', and a second one, 'b', cannot be set"),
        (lambda g: g.set_entry_point("a"), "its entry point is already 'a'"),
        (lambda g: g.set_exit_point(""), "an exit point must be a non-empty string"),
    ],
)
def test_what_cannot_be_added_is_refused_at_once(build, message):
    graph = make()
    graph.add_node("a", same)
    graph.set_entry_point("a")
    with pytest.raises(GraphError, match=re.escape(message)) as caught:
        build(graph)
    assert "graph 'test'" in str(caught.value)
    graph.set_exit_point("a")
    graph.validate()


def test_nodes_are_added_by_decorator_under_their_own_name_or_another():
    graph = make()

    @graph.node
    async def one(state):
        return state

    @graph.node()
    async def two(state):
        return state

    @graph.node("a third")
    async def three(state):
        return state

    assert list(graph._nodes) == ["one", "two", "a third"]
    assert graph._nodes["one"] is one
    assert repr(graph) == "<StateGraph test: 3 nodes, 0 edges>"


class Struct(msgspec.Struct):
    n: int = 0


@dataclasses.dataclass
class Data:
    n: int = 0


@pytest.mark.parametrize("state_type", [State, Struct, Data])
def test_a_state_is_a_state_a_struct_or_a_dataclass(state_type):
    StateGraph(GraphConfig(name="x"), state_type)


@pytest.mark.parametrize("state_type", [dict, int, None, Struct(), Data(), "State"])
def test_other_kinds_of_state_are_refused(state_type):
    with pytest.raises(ConfigError, match="state_type must be State, a msgspec.Struct or a dataclass, or a pydantic model"):
        StateGraph(GraphConfig(name="x"), state_type)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"config": "x"}, "config"),
        ({"config": GraphConfig(name="x", observer="nobody")}, "observer"),
        ({"observer": 5}, "observer"),
        ({"store": "memory"}, "store"),
        ({"config": GraphConfig(name="x", checkpoint=CheckpointConfig(interval=1, store="nowhere"))}, "store"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options, field):
    with pytest.raises(ConfigError) as caught:
        StateGraph(**{"config": GraphConfig(name="x"), **options})
    assert caught.value.field == field


def test_a_graph_error_pickles():
    copy = pickle.loads(pickle.dumps(GraphError("g", ["one", "two"])))
    assert (str(copy), copy.faults) == ("graph 'g' cannot work: one; two", ["one", "two"])
    assert isinstance(copy, ConfigError)
    assert isinstance(copy, ValueError)


# Predicates.


def test_predicates_look_at_mappings_and_at_fields():
    assert always(State())
    assert key_exists("a")(State(a=None))
    assert not key_exists("a")(State())
    assert key_exists("n")(Struct(0))
    assert not key_exists("n")(Struct(None))
    assert not key_exists("z")(Data())
    assert key_equals("a", 1)(State(a=1))
    assert not key_equals("a", None)(State())
    assert key_equals("n", 0)(Data())
    assert not key_equals("z", None)(Data())


def test_predicates_combine():
    yes, no = always, not_(always)
    assert all_of(yes, yes)(State())
    assert not all_of(yes, no)(State())
    assert any_of(no, yes)(State())
    assert not any_of(no, no)(State())
    assert all_of(lambda s: 1)(State()) is True


def test_combinators_stop_at_the_answer():
    def explode(state):
        raise AssertionError("asked")

    assert any_of(always, explode)(State())
    assert not all_of(not_(always), explode)(State())


def test_predicates_made_here_have_names_that_can_be_read():
    def ready(state):
        return True

    combined = all_of(key_exists("a"), not_(any_of(ready, lambda s: True)), key_equals("b", "x\n"))
    assert combined.__name__ == r"all_of(key_exists('a'), not any_of(ready, a predicate), key_equals('b', 'x\n'))"


@pytest.mark.parametrize(
    "build", [lambda: key_exists(""), lambda: key_equals(5, 5), lambda: not_(same), lambda: all_of(), lambda: any_of(5)]
)
def test_predicates_of_nothing_are_refused(build):
    with pytest.raises(ConfigError):
        build()


def test_a_predicate_that_gives_something_to_await_is_no_predicate():
    with pytest.raises(TypeError, match="plain function"):
        not_(lambda state: same(state))(State())


# The picture.


def test_the_picture_shows_shapes_and_names():
    graph = make()
    graph.add_node("draft", same)
    graph.add_node("sub", graph_node(make(), lambda s: s, lambda s, i: i))
    graph.add_node("publish", same)
    graph.add_edge("draft", "sub")
    graph.add_edge("sub", "draft", key_equals("ok", False), "again")
    graph.add_edge("sub", "publish", lambda state: True)
    graph.add_edge("sub", "nowhere")
    graph.set_entry_point("draft")
    graph.set_exit_point("publish")
    assert graph.to_mermaid() == (
        "flowchart TD\n"
        '    n0(["draft"])\n'
        '    n1[["sub"]]\n'
        '    n2((("publish")))\n'
        '    n3["nowhere"]\n'
        "    n0 --> n1\n"
        '    n1 -->|"again"| n0\n'
        '    n1 -->|"a predicate"| n2\n'
        "    n1 --> n3\n"
        "    style n3 stroke-dasharray: 5 5\n"
    )


def test_the_picture_shows_what_is_in_a_node_inside_it():
    inner = make()
    inner.add_node("look", same)
    inner.add_node("judge", same)
    inner.add_edge("look", "judge")
    inner.set_entry_point("look")
    inner.set_exit_point("judge")
    graph = make()
    graph.add_node("split", branches_node({"plain": same, "deep": graph_node(inner, lambda s: s, lambda s, i: i)}))
    graph.add_node("publish", same)
    graph.add_edge("split", "publish")
    graph.add_error_edge("split", "publish", ValueError)
    graph.set_entry_point("split")
    graph.set_exit_point("publish")
    assert graph.to_mermaid() == (
        "flowchart TD\n"
        '    subgraph n0["split"]\n'
        '        n0_0["plain"]\n'
        '        subgraph n0_1["deep"]\n'
        '            n0_1_0(["look"])\n'
        '            n0_1_1((("judge")))\n'
        "            n0_1_0 --> n0_1_1\n"
        "        end\n"
        "    end\n"
        '    n1((("publish")))\n'
        "    n0 --> n1\n"
        '    n0 -.->|"on ValueError"| n1\n'
    )


def test_a_graph_that_runs_itself_can_be_drawn():
    graph = make()
    node = graph_node(graph, lambda s: s, lambda s, i: i)
    graph.add_node("again", node)
    assert '[["again"]]' in graph.to_mermaid()


def test_names_are_escaped_in_the_picture():
    graph = make()
    graph.add_node('a "b" <c> #d; `e` [f]\n|', same)
    graph.set_entry_point('a "b" <c> #d; `e` [f]\n|')
    label = graph.to_mermaid().splitlines()[1]
    assert label == '    n0(["a #34;b#34; #60;c#62; #35;d#59; #96;e#96; #91;f#93;#92;n#124;"])'


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, unique=True), st.text(min_size=1).filter(str.strip))
def test_any_name_gives_lines_of_one_form(names, edge_name):
    graph = make()
    for name in names:
        graph.add_node(name, same)
        graph.add_edge(names[0], name, lambda s: True, edge_name)
    graph.set_entry_point(names[0])
    safe = r'"(?:[^\x00-\x1f"#;<>&`\\|\[\]{}]|#\d+;)*"'
    line = re.compile(rf"flowchart TD|    n\d+(\(\[{safe}\]\)|\[{safe}\])|    n\d+ -->\|{safe}\| n\d+")
    for text in graph.to_mermaid().splitlines():
        assert line.fullmatch(text), text


def test_a_node_may_be_named_by_keyword():
    graph = StateGraph(GraphConfig(name="g", observer="noop"))

    @graph.node(name="ask")
    async def fn(state):
        return state

    graph.set_entry_point("ask")
    graph.set_exit_point("ask")
    graph.validate()
