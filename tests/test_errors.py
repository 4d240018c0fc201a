"""The error tree; the exact messages of `ParallelError`; groups that split without losing their account."""

import copy
import pickle

import msgspec

from trioflow import (
    ConfigError,
    ErrorCategory,
    ErrorReport,
    ParallelError,
    ParallelResult,
    TaskError,
    TrioflowError,
)


def failures(*errors):
    return [TaskError(index, f"item {index}", error, 1) for index, error in enumerate(errors)]


def parallel_error(*errors, total=None):
    listed = failures(*errors)
    return ParallelError(listed, ParallelResult([], [], listed, [], total or len(listed)))


def test_the_tree():
    assert issubclass(ConfigError, TrioflowError)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ParallelError, TrioflowError)
    assert issubclass(ParallelError, ExceptionGroup)


def test_the_message_of_one_failure():
    errors = [TaskError(5, None, ConnectionError("connection refused"), 1)]
    error = ParallelError(errors, ParallelResult([], [], errors, [], 9))
    assert str(error) == "parallel execution failed: item 5: connection refused"


def test_the_message_of_several_failures():
    error = parallel_error(*[OSError("connection refused")] * 12, *[TimeoutError("timeout exceeded")] * 3)
    assert str(error) == (
        "parallel execution failed: 15 items failed with 2 error types: "
        "'connection refused' (12 items), 'timeout exceeded' (3 items)"
    )


def test_the_message_uses_the_singular():
    error = parallel_error(ValueError("same"), ValueError("same"))
    assert str(error) == "parallel execution failed: 2 items failed with 1 error type: 'same' (2 items)"
    error = parallel_error(ValueError("b"), ValueError("a"))
    assert str(error) == (
        "parallel execution failed: 2 items failed with 2 error types: 'b' (1 item), 'a' (1 item)"
    )


def test_categories_group_by_message_across_types_and_name_the_first_type():
    error = parallel_error(ValueError("same"), KeyError("k"), OSError("same"))
    assert error.report == ErrorReport(
        3,
        3,
        [ErrorCategory("same", "ValueError", 2, 0), ErrorCategory("'k'", "KeyError", 1, 1)],
    )


def test_an_empty_message_uses_the_type_name():
    assert str(parallel_error(ValueError())) == "parallel execution failed: item 0: ValueError"


def test_messages_are_escaped_then_cut():
    assert str(parallel_error(ValueError("a\nb"))) == "parallel execution failed: item 0: a\\nb"
    message = str(parallel_error(ValueError("x" * 300)))
    assert message == "parallel execution failed: item 0: " + "x" * 199 + "…"
    many = str(parallel_error(ValueError("y" * 300), ValueError("\u202e")))
    assert f"'{'y' * 199}…' (1 item)" in many
    assert "'\\u202e' (1 item)" in many


def test_ten_categories_are_named_and_the_rest_counted():
    error = parallel_error(*[ValueError(f"m{number:02}") for number in range(14)])
    assert str(error).endswith("'m09' (1 item), and 4 more")
    assert "m10" not in str(error)
    assert len(error.report.categories) == 14


def test_the_report_is_raw_uncut_and_encodes_to_json():
    error = parallel_error(ValueError("line\n" + "x" * 300), ValueError("lone \ud800"))
    raw, lone = (category.message for category in error.report.categories)
    assert raw == "line\n" + "x" * 300
    assert lone == "lone \\ud800"
    decoded = msgspec.json.decode(msgspec.json.encode(error.report), type=ErrorReport)
    assert decoded == error.report


def test_the_exceptions_are_the_processors_own():
    boom, key = ValueError("boom"), KeyError("k")
    error = parallel_error(boom, key)
    assert error.exceptions == (boom, key)
    caught = []
    try:
        raise error
    except* KeyError as group:
        caught.append(group)
    except* ValueError as group:
        caught.append(group)
    assert [type(group) for group in caught] == [ParallelError, ParallelError]
    assert [group.errors[0].index for group in caught] == [1, 0]


def test_split_and_subgroup_keep_type_result_and_matching_errors():
    error = parallel_error(ValueError(0), KeyError(1), ValueError(2))
    matched, rest = error.split(ValueError)
    assert (type(matched), type(rest)) == (ParallelError, ParallelError)
    assert [failure.index for failure in matched.errors] == [0, 2]
    assert [failure.index for failure in rest.errors] == [1]
    assert matched.result is error.result
    assert "2 items failed" in str(matched)
    assert error.subgroup(OSError) is None


def test_split_reaches_into_nested_groups_and_keeps_the_index():
    nested = ExceptionGroup("g", [ValueError("v"), ExceptionGroup("h", [KeyError("k"), ValueError("w")])])
    error = parallel_error(OSError("first"), nested)
    matched = error.subgroup(KeyError)
    (failure,) = matched.errors
    assert failure.index == 1
    assert failure.error is matched.exceptions[0]
    assert isinstance(failure.error, ExceptionGroup)
    matched, rest = error.split(ValueError)
    assert [failure.index for failure in matched.errors] == [1]
    assert [failure.index for failure in rest.errors] == [0, 1]


def test_the_same_exception_from_several_items_keeps_every_index():
    boom = ValueError("boom")
    error = parallel_error(boom, KeyError(), boom)
    assert [failure.index for failure in error.subgroup(ValueError).errors] == [0, 2]


def test_an_exception_that_is_also_in_an_earlier_group_keeps_its_own_index():
    shared = ValueError("shared")
    group = ExceptionGroup("g", [shared, KeyError("k")])
    error = parallel_error(group, shared)
    matched, rest = error.split(lambda leaf: leaf is group)
    assert [failure.index for failure in matched.errors] == [0]
    assert [failure.index for failure in rest.errors] == [1]
    assert [failure.index for failure in error.subgroup(ValueError).errors] == [0, 1]


def test_derive_with_foreign_exceptions_is_a_plain_group():
    derived = parallel_error(ValueError("a")).derive([OSError("foreign")])
    assert type(derived) is ExceptionGroup


def test_it_pickles_and_copies_with_its_notes():
    error = parallel_error(ValueError("boom"), ExceptionGroup("g", [KeyError("k")]))
    error.add_note("in the nightly run")
    for clone in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert str(clone) == str(error)
        assert clone.__notes__ == ["in the nightly run"]
        assert [failure.index for failure in clone.errors] == [0, 1]
        assert [type(leaf) for leaf in clone.exceptions] == [ValueError, ExceptionGroup]
        assert clone.result.total == 2
        assert clone.report == error.report


def test_its_repr_shows_no_items():
    assert "item 0" not in repr(parallel_error(ValueError("a"), ValueError("b")))


def test_a_config_error_says_field_value_and_what_is_allowed():
    error = ConfigError.refusing("max_workers", -3, "0 (auto) or more")
    assert str(error) == "max_workers must be 0 (auto) or more, got -3"
    assert (error.field, error.value, error.allowed) == ("max_workers", -3, "0 (auto) or more")
    clone = pickle.loads(pickle.dumps(error))
    assert (str(clone), clone.field, clone.value) == (str(error), "max_workers", -3)


def test_a_config_error_shows_any_value_in_one_line():
    class Rude:
        def __repr__(self):
            raise RuntimeError

    assert str(ConfigError.refusing("x", Rude(), "polite")).endswith("got <Rude>")
    assert "\n" not in str(ConfigError.refusing("x", "a\nb" * 200, "short"))
