"""JSON Schema to a grammar: what each keyword allows, judged by the jsonschema package; what is not supported is named; hostile schemas end quickly."""

import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from underhood.infer import grammar_schema
from underhood.infer.grammar import Automaton, SchemaError, finished, remaining
from underhood.infer.grammar_schema import UnsupportedKeyword, schema_grammar

TREE = {
    "$defs": {"tree": {"type": "object", "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}},
    "$ref": "#/$defs/tree",
}
TAGGED = [
    {"type": "object", "properties": {"kind": {"const": kind}, "x": {"type": kind}}, "required": ["kind", "x"], "additionalProperties": False}
    for kind in ("string", "null")
]

CASES: list[tuple[Any, list[str], list[str]]] = [  # a schema, texts that it allows, texts that it does not
    (True, ["1", "[]", '{"a": null}'], ["", "tru"]),
    ({}, ["1", '"x"', '{"a":[1, 2]}'], ["[1"]),
    ({"type": "object"}, ["{}", '{"a":1,"b": {}}'], ["[]", "1"]),
    ({"type": "array"}, ["[]", '[1, "a",null]'], ["{}"]),
    ({"type": "string"}, ['""', '"é\\u00e9"'], ["1", "é"]),
    ({"type": "integer"}, ["0", "-7", "123456789012345"], ["1.5", "1e3", '"1"', "00"]),
    ({"type": "number"}, ["0", "-7.25", "1e3"], ["NaN", '"1"']),
    ({"type": "boolean"}, ["true", "false"], ["null", "0"]),
    ({"type": "null"}, ["null"], ["false"]),
    ({"type": ["integer", "null"]}, ["1", "null"], ["1.5", '"1"']),
    ({"type": ["integer", "number"]}, ["1", "1.5"], ["null"]),
    ({"type": "string", "minimum": 3}, ['"a"'], ["5"]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"😀é\\n"'], ['"a"', '"abcd"', '"😀"']),
    ({"minLength": 2}, ['"ab"'], ['"a"']),
    ({"type": "integer", "minimum": -2, "maximum": 12.5}, ["-2", "0", "12"], ["-3", "13"]),
    ({"type": "integer", "exclusiveMinimum": -2, "exclusiveMaximum": 12.5}, ["-1", "12"], ["-2", "13"]),
    ({"type": "integer", "minimum": 2, "exclusiveMinimum": 2, "maximum": 9, "exclusiveMaximum": 20}, ["3", "9"], ["2", "10"]),
    ({"type": "number", "minimum": 0, "exclusiveMaximum": 2}, ["0", "1.999999", "0.5", "1"], ["-0.5", "2", "2.0", "2.000001"]),
    ({"minimum": 5}, ["5", "5.5"], ["4"]),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, ["[1]", "[1, 2]"], ["[]", "[1,2,3]", '["a"]']),
    ({"type": "array", "items": False}, ["[]"], ["[1]"]),
    ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    ({"items": {"type": "null"}}, ["[null,null]"], ["[1]"]),
    ({"prefixItems": [{"const": 1}, {"const": "a"}], "minItems": 2, "maxItems": 2}, ['[1, "a"]'], ["[]", "[1]", '["a"]', '[1,"a",1]']),
    ({"prefixItems": [{"const": 1}, {"const": "a"}], "items": {"const": 2}}, ["[]", "[1]", '[1,"a"]', '[1,"a",2,2]'], ["[2]", "[1,2]", '[1,"a",1]']),
    ({"prefixItems": [{"const": 1}, {"const": 2}], "maxItems": 1}, ["[]", "[1]"], ["[1,2]"]),
    ({"prefixItems": [{"const": 1}, {"const": 2}], "items": False, "minItems": 1}, ["[1]", "[1,2]"], ["[]", "[1,2,3]"]),
    ({"prefixItems": [{"const": 1}], "minItems": 3, "items": {"const": 2}}, ["[1,2,2]", "[1,2,2,2]"], ["[1,2]"]),
    ({"prefixItems": [{"const": 1}, False]}, ["[]", "[1]"], ["[1,2]"]),
    ({"properties": {"a": {"type": "null"}}}, ["{}", '{"a":null}'], ['{"a":1}', '{"b":1}']),
    ({"properties": {"a": True}, "additionalProperties": True}, ['{"a":1, "b":2}', '{"b":1}', '{"aa":1}'], ['{"a":1, "a":2}']),
    ({"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "integer"}}, ['{"a":null, "b":2}'], ['{"b":null}', '{"\\u0061":1}']),
    ({"required": ["x"]}, ['{"x":1}'], ["{}"]),
    ({"properties": {"a": {"type": "null"}}, "required": ["b", "b"]}, ['{"b":1}', '{"a":null,"b":[]}'], ['{"a":null}']),
    ({"type": "object", "properties": {"a": False, "b": True}, "additionalProperties": False}, ["{}", '{"b":1}'], ['{"a":1}']),
    ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a":1}']),
    ({"properties": {'q"\\é': {"type": "null"}}, "required": ['q"\\é']}, ['{"q\\"\\\\é": null}'], ['{"q": null}']),
    ({"enum": ["a", "ab", 1, 1.5, None, True, [1, {"x": "é"}]]}, ['"a"', '"ab"', "1", "1.5", "null", "true", '[1, {"x": "é"}]'], ['"b"', "false", '"abc"']),
    ({"enum": ["a", 1], "type": "string"}, ['"a"'], ["1"]),
    ({"enum": [1.0, True], "type": "integer"}, ["1.0"], ["true"]),
    ({"const": {"a": [None]}}, ['{"a": [null]}'], ["{}"]),
    ({"enum": [1, 2], "const": 2.0}, ["2"], ["1"]),
    ({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}, ["1", "[1]"], ["[[1]]"]),
    ({"oneOf": [{"type": "integer"}, {"type": "string"}, {"enum": [None, True]}]}, ["1", '"x"', "true"], ["false"]),
    ({"oneOf": TAGGED}, ['{"kind": "string", "x": ""}', '{"kind":"null","x":null}'], ['{"kind":"null","x":""}']),
    ({"allOf": [{"type": "null"}], "title": "one"}, ["null"], ["1"]),
    (TREE, ["{}", '{"v":1,"kids":[{"kids":[]}, {"v":2}]}'], ['{"kids":[1]}']),
    ({"type": "array", "items": {"$ref": "#"}, "maxItems": 2}, ["[[],[[]]]"], ["[[],[],[]]"]),
    ({"definitions": {"a/b~c d": {"type": "null"}}, "$ref": "#/definitions/a~1b~0c%20d"}, ["null"], ["1"]),
    ({"anyOf": [{"type": "null"}, {"$ref": "#/anyOf/0"}]}, ["null"], ["1"]),
    ({"title": "t", "description": "d", "default": 1, "examples": [], "$comment": "c", "$schema": "s", "$id": "i", "type": "null"}, ["null"], []),
]


def accepts(schema: Any, text: str) -> bool:
    automaton = Automaton(schema_grammar(schema))
    state = automaton.start
    for byte in text.encode():
        following = automaton.after(state)
        if byte not in following:
            return False
        state = following[byte]
    return finished(state)


@pytest.mark.parametrize(("schema", "allowed", "refused"), CASES, ids=range(len(CASES)))
def test_what_a_schema_allows(schema: Any, allowed: list[str], refused: list[str]) -> None:
    judge = jsonschema.Draft202012Validator(schema)
    for text in allowed:
        assert accepts(schema, text), text
        assert judge.is_valid(json.loads(text)), "the table is wrong"
    for text in refused:
        assert not accepts(schema, text), text


def test_a_reference_to_itself_adds_nothing() -> None:
    """jsonschema would go round for ever."""
    schema = {"anyOf": [{"$ref": "#"}, {"type": "null"}]}
    assert accepts(schema, "null")
    assert not accepts(schema, "1")


def test_recursion_is_bounded_where_only_a_count_could_end_it() -> None:
    """Each object holds an array of objects, which may be empty: from some depth on it is."""
    schema = {"properties": {"k": {"type": "array", "items": {"$ref": "#"}}}, "required": ["k"]}
    automaton = Automaton(schema_grammar(schema))
    state, depth = automaton.start, 0
    while ord("{") in automaton.after(state):
        for byte in b'{"k":[':
            state = automaton.after(state)[byte]
        depth += 1
        assert depth < 100
    assert depth > 20
    assert set(automaton.after(state)) == {ord("]")}


UNSUPPORTED = [
    *("pattern", "format", "patternProperties", "propertyNames", "minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "dependencies"),
    *("uniqueItems", "contains", "minContains", "multipleOf", "not", "if", "then", "else", "unevaluatedProperties", "$anchor", "$dynamicRef"),
    *("contentEncoding", "nullable", "x-mine", "Type"),
]


@pytest.mark.parametrize("keyword", UNSUPPORTED)
def test_unsupported_keywords_are_named(keyword: str) -> None:
    inner = {"type": "string", keyword: "^a$"}
    for schema in (inner, {"properties": {"a": inner}}, {"items": inner}, {"anyOf": [True, inner]}, {"$defs": {"x": inner}, "items": {"$ref": "#/$defs/x"}}):
        with pytest.raises(UnsupportedKeyword, match=f"'{keyword.replace('$', '.')}' is not supported") as caught:
            schema_grammar(schema)
        assert caught.value.keyword == keyword
    with pytest.raises(UnsupportedKeyword, match=r"schema\.properties\.a\.items: "):
        schema_grammar({"properties": {"a": {"items": inner}}})


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"$ref": "#/$defs/a", "$defs": {"a": True}, "maxLength": 3}, "maxLength"),
        ({"anyOf": [True], "type": "object"}, "type"),
        ({"enum": ["abc"], "maxLength": 1}, "maxLength"),
        ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, "allOf"),
        ({"items": {"$id": "other"}}, "$id"),
        ({"anyOf": [True], "oneOf": [True]}, "oneOf"),
    ],
)
def test_keywords_that_would_have_to_be_joined_are_named(schema: Any, keyword: str) -> None:
    with pytest.raises(UnsupportedKeyword) as caught:
        schema_grammar(schema)
    assert caught.value.keyword == keyword


DAMAGED: list[Any] = [
    *(
        [],
        None,
        3,
        "x",
        {"items": 3},
        {"properties": []},
        {"properties": {"a": 1}},
        {"required": "a"},
        {"required": [1]},
        {"additionalProperties": []},
        {"prefixItems": 3},
    ),
    *({"type": "text"}, {"type": 3}, {"type": []}, {"type": [[]]}, {"type": [None]}, {"enum": 3}, {"anyOf": {}}, {"anyOf": []}, {"oneOf": [3]}, {"allOf": []}),
    *({"minLength": -1}, {"minLength": "1"}, {"minLength": True}, {"maxItems": 1.5}, {"maxLength": float("inf")}, {"maxLength": None}),
    *({"minimum": "1"}, {"minimum": True}, {"maximum": float("nan")}, {"type": "integer", "maximum": float("inf")}, {"type": "integer", "minimum": 10**400}),
    *({"$ref": 3}, {"$ref": "#/nothing"}, {"$ref": "other.json"}, {"$ref": "http://a/b#"}, {"$ref": "#/anyOf/9", "anyOf": []}, {"$ref": "#a"}),
    *({"enum": [float("nan")]}, {"const": {1, 2}}, {"const": "\ud800"}, {"properties": {"\ud800": True}}, {"enum": [{"a": b"x"}]}, {"enum": [10**5000]}),
]


@pytest.mark.parametrize("damaged", [{"properties": ["x"], "required": ["x"]}, {"required": 5}, {"required": [[]]}, {"properties": 5, "required": ["x"]}])
def test_a_damaged_schema_that_oneof_refers_to_is_a_typed_error(damaged: Any) -> None:
    kinds = {name: {"type": "object", **damaged} for name in "ab"}
    with pytest.raises(SchemaError, match=r"schema\.\$defs"):
        schema_grammar({"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": kinds})


@pytest.mark.parametrize("schema", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_schemas_are_typed_errors(schema: Any) -> None:
    with pytest.raises(SchemaError, match="schema"):
        schema_grammar(schema)


NOTHING = [
    *(False, {"enum": []}, {"enum": [1], "type": "string"}, {"minLength": 3, "maxLength": 2}, {"type": "integer", "minimum": 3, "maximum": 2}),
    *({"minItems": 1, "items": False}, {"required": ["a"], "properties": {"a": False}}, {"required": ["a"], "additionalProperties": False}, {"$ref": "#"}),
    *({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, {"minItems": 1, "items": {"$ref": "#"}}, {"enum": [1, 2], "const": 3}),
    *(
        {"type": "integer", "minimum": 10**16},
        {"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 1},
        {"minItems": 2, "maxItems": 1},
        {"prefixItems": [True, False], "minItems": 2},
    ),
]


@pytest.mark.parametrize("schema", NOTHING, ids=range(len(NOTHING)))
def test_schemas_without_a_value_are_errors(schema: Any) -> None:
    with pytest.raises(SchemaError, match="allows no value"):
        schema_grammar(schema)


def test_narrow_bounds_are_refused_not_emptied() -> None:
    with pytest.raises(SchemaError, match=r"no whole number lies between 0\.25 and 0\.75"):
        schema_grammar({"type": "number", "minimum": 0.25, "maximum": 0.75})


OVERLAP = [
    [{"type": "integer"}, {"type": "number"}],
    [{"type": "string"}, {"type": "string", "maxLength": 3}],
    [{"enum": ["a", "b"]}, {"enum": ["b"]}],
    [{"enum": [1]}, {"const": 1.0}],
    [{"type": "object", "properties": {"a": True}}, {"type": "object", "properties": {"b": True}}],
    [{"type": "object", "properties": {"k": {"const": "a"}}}, {"type": "object", "properties": {"k": {"const": "b"}}}],
    [{"const": "a"}, {"minLength": 1}],
    [True, {"type": "null"}],
]


@pytest.mark.parametrize("options", OVERLAP, ids=range(len(OVERLAP)))
def test_one_of_refuses_what_might_fit_two(options: list[Any]) -> None:
    with pytest.raises(SchemaError, match="might fit two"):
        schema_grammar({"oneOf": options})
    schema_grammar({"anyOf": options})


def nested(depth: int) -> Any:
    schema: Any = True
    for _ in range(depth):
        schema = {"items": schema}
    return schema


HOSTILE = {
    "deep": nested(100_000),
    "deep value": {"const": json.loads("[" * 900 + "]" * 900)},
    "many properties": {"properties": {f"p{k}": {} for k in range(100_000)}},
    "many alternatives": {"anyOf": [{"type": "null"}] * 100_000},
    "many one of": {"oneOf": [{"const": k} for k in range(10_000)]},
    "long values": {"enum": ["x" * 100_000] * 100},
    "long array": {"minItems": 10**9},
    "long string": {"minLength": 10**300},
    "doubling": {
        "$defs": {f"d{k}": {"type": "array", "minItems": 2, "items": {"$ref": f"#/$defs/d{k + 1}"}} for k in range(200)} | {"d200": True},
        "$ref": "#/$defs/d0",
    },
    "chain": {"$defs": {f"d{k}": {"$ref": f"#/$defs/d{k + 1}"} for k in range(5000)} | {"d5000": {"$ref": "#/$defs/d0"}}, "$ref": "#/$defs/d0"},
    "pointer": {"$ref": "#" + "/a" * 100_000},
    "names over and over": {"required": ["a"] * 100_000},
    "long names": {"properties": {"x" * 100_000: True}, "additionalProperties": True},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_are_refused_quickly(name: str) -> None:
    start = time.monotonic()
    with pytest.raises(SchemaError):
        schema_grammar(HOSTILE[name])
    assert time.monotonic() - start < 5


def test_values_are_looked_at_once_however_many_pairs_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, plain = [0], grammar_schema._key

    def key(value: Any) -> str:
        looked[0] += 1
        return plain(value)

    monkeypatch.setattr(grammar_schema, "_key", key)
    schema_grammar({"oneOf": [{"enum": list(range(20 * k, 20 * k + 20))} for k in range(60)]})
    assert looked[0] == 60 * 20


def test_depth_and_literals_have_bounds_of_their_own() -> None:
    """Without them Python's own depth, or the length of the shortest text, would refuse most of the above."""
    schema_grammar(nested(60))
    with pytest.raises(SchemaError, match="64 inside each other"):
        schema_grammar(nested(70))
    with pytest.raises(SchemaError, match="at most 1,048,576 characters"):
        schema_grammar({"enum": ["short", *(f"{k}" + "x" * 100_000 for k in range(11))]})


def test_large_counts_that_need_not_be_reached_are_fine() -> None:
    assert accepts({"type": "array", "maxItems": 10**9, "items": {"type": "string", "maxLength": 10**12}}, '["a"]')


def test_large_enumerations_are_fine() -> None:
    schema = {"enum": [f"item {k}" for k in range(10_000)]}
    assert accepts(schema, '"item 9999"')
    assert not accepts(schema, '"item 10000"')


def test_the_bounds_are_what_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with the bound moved the same schema passes, and moved down a small one is refused."""
    small = {"items": {"items": {"type": "null"}}}
    schema_grammar(small)
    monkeypatch.setattr(grammar_schema, "MOST_SCHEMAS", 2)
    with pytest.raises(SchemaError, match="too large"):
        schema_grammar(small)


# ── schemas that nobody would write ───────────────────────────────────────────────────────────────────────────────────

NUMBERS = st.integers(-3, 9) | st.sampled_from([10**20, 10**400, -(10**400), 1e300, float("inf"), float("nan"), 0.5])
LEAVES = st.none() | st.booleans() | NUMBERS | st.sampled_from(["", "a", "#", "#/a", "object", "integer", "string", "\ud800", "é"])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2), max_leaves=4)
KEYWORDS = sorted(grammar_schema.TYPED | set(grammar_schema.WHOLE) | {"type", "$defs", "title", "pattern"})


def holding(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas whose keywords hold what they should, or anything."""
    kinds = sorted(grammar_schema.OF_TYPE)
    fields = st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    right: dict[str, Any] = {"type": st.sampled_from(kinds) | st.lists(st.sampled_from(kinds)), "required": st.lists(st.sampled_from("ab"), max_size=2)}
    right |= dict.fromkeys(("properties", "$defs"), fields) | dict.fromkeys(("items", "additionalProperties"), inner)
    right |= dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems", "enum"), st.lists(inner, min_size=1, max_size=3))
    right |= dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), NUMBERS)
    right["$ref"] = st.sampled_from(["#", "#/$defs/a", "#/oneOf/0", "#/properties/a", "#/x"])
    one = st.sampled_from(KEYWORDS).flatmap(lambda k: st.tuples(st.just(k), right.get(k, inner) | VALUES))
    return st.lists(one, max_size=4).map(dict)


@settings(max_examples=400, deadline=None)
@given(st.recursive(VALUES, holding, max_leaves=8))
@example({"type": "integer", "enum": [10**400]})
@example({"type": "string", "minLength": 10**400})
@example({"minItems": 10**400, "items": False})
@example({"oneOf": [{"type": "object", "required": 5}, {"type": "object"}]})
@example({"oneOf": [{"type": "object", "required": [[1]]}, {"type": "object"}]})
@example({"oneOf": [{"type": "object", "properties": 3}, {"type": "object", "required": ["a"]}]})
def test_whatever_is_no_schema_is_a_typed_error(schema: Any) -> None:
    """Schemas that pass can be followed: their first bytes lead to states from which the end is known and near."""
    try:
        automaton = Automaton(schema_grammar(schema))
    except SchemaError:
        return
    for state in automaton.after(automaton.start).values():
        assert remaining(state) < 2**20


def test_what_could_not_be_ended_is_not_begun() -> None:
    """A string of 10¹² characters beside null: the engine counts the bytes to the end in 32 bits."""
    schema = {"anyOf": [{"type": "null"}, {"type": "string", "minLength": 10**12}]}
    assert accepts(schema, "null")
    assert set(Automaton(schema_grammar(schema)).after(Automaton(schema_grammar(schema)).start)) == {ord("n")}
