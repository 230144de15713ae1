"""JSON of others is taken as an object within limits, its fields with their kind and range, and errors of other
libraries as a sentence."""

import math

import pytest

from ltx2_core.errors import CheckpointError
from ltx2_core.errors.foreign import DEEPEST, Fields, foreign_call, parse_json


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, f"more than {DEEPEST} deep"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, f"more than {DEEPEST} deep"),
        (b"[1]", "is a list, an object"),
        (b"null", "is nothing, an object"),
        (b"{", "not valid JSON"),
        (b"\xff\xff", "not valid JSON"),
        (b'{"a": 1' + b" " * 100 + b"}", "108 bytes, at most 64"),
    ],
)
def test_json_is_an_object_within_limits(content, fact):
    largest = 64 if b"    " in content else 2**20
    with pytest.raises(CheckpointError, match=f"The config .*{fact}"):
        parse_json(content, "The config", largest=largest)


def test_a_name_that_comes_twice_is_refused_where_it_must_not():
    assert parse_json(b'{"a": 1, "a": 2}', "x") == {"a": 2}
    with pytest.raises(CheckpointError, match="'a' comes twice"):
        parse_json(b'{"a": 1, "a": 2}', "x", unique=True)


def test_fields_have_a_kind_a_range_and_a_default():
    fields = Fields({"whole": 3.0, "number": 1, "flag": False, "list": [1, 2], "null": None}, "The config")
    assert fields.whole("whole") == 3 and fields.number("number") == 1.0 and fields.flag("flag") is False
    assert fields.wholes("list") == (1, 2) and fields.whole("null", 5) == 5 and "null" not in fields
    assert fields.section("no").whole("x", 1) == 1 and isinstance(fields.whole("whole"), int)


@pytest.mark.parametrize("value", [True, "3", 1.5, -1, 10**400, math.nan, math.inf, [], {}, 1e30])
def test_a_wrong_field_is_named_with_what_was_found_and_expected(value):
    with pytest.raises(CheckpointError, match=r"^The config has layers = .*; a whole number from 1 to 48 was expected"):
        Fields({"layers": value}, "The config").whole("layers", 2, most=48)


def test_other_libraries_cannot_say_anything_but_a_sentence():
    class Panic(BaseException):
        """As pyo3 has it."""

    def fail(error):
        raise error

    for error in (ValueError("two\nlines"), Panic("no"), RecursionError()):
        with pytest.raises(CheckpointError, match=r"^It cannot be read \(.*\); download it again\.$"):
            foreign_call(lambda error=error: fail(error), "It cannot be read")
    with pytest.raises(MemoryError):
        foreign_call(lambda: fail(MemoryError()), "It")
