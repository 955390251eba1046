"""JSON Schema (draft 2020-12) to a grammar whose texts are all valid by the schema.

A keyword that is not supported is an error that names it; none is passed over, except those that only describe. Where JSON Schema leaves more open than a
model should write, the grammar takes a part of it, never more than the schema allows:
- properties come in the order of the schema, and those it does not name only where ``additionalProperties`` says so, or where it names none;
- a schema that has keywords for objects (arrays, strings, numbers) and no ``type`` means objects (…);
- numbers have at most 15 digits, and with bounds 6 decimals;
- parts whose shortest text has more than 65,536 bytes are left out.
"""

import json
import math
import re
import urllib.parse
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from underhood.infer.grammar import LONGEST_LEAST, Grammar, Item, Rule, SchemaError
from underhood.infer.grammar_json import Json, whole_bounds

DESCRIBING = {
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
    "discriminator",
}  # the last is OpenAPI's: a hint beside oneOf
AT_THE_ROOT = {"$schema", "$id", "$defs", "definitions"}
OF_TYPE = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "boolean": (),
    "null": (),
}
TYPED = frozenset(keyword for keywords in OF_TYPE.values() for keyword in keywords)
WHOLE = ("$ref", "enum", "const", "anyOf", "oneOf", "allOf")  # keywords that say everything by themselves
MOST_SCHEMAS = 2000
DEEPEST = 64  # schemas inside each other
MOST_LITERALS = 2**20  # characters of all values of enum and const
MOST_COUNT = 2**53  # beyond, the bound of a length is as good as this one


class UnsupportedKeyword(SchemaError):
    """A keyword that cannot be kept: ``keyword`` names it."""

    def __init__(self, keyword: str, where: str, remedy: str = "") -> None:
        self.keyword = keyword
        super().__init__(f"the keyword {keyword!r} is not supported", where=where, remedy=remedy)


def schema_grammar(schema: Any, writable: Collection[int] = range(256), characters: Collection[str] = ()) -> Item:
    """The grammar of the JSON texts that ``schema`` (as parsed from JSON) allows, for a vocabulary that has ``writable`` bytes and ``characters``.

    Raises ``UnsupportedKeyword``, and ``SchemaError`` for a schema that is damaged, too large, or allows nothing that can be written.
    """
    grammar = Grammar(writable, characters)
    try:
        root = Compiler(schema, Json(grammar)).compile_all()
    except RecursionError:
        raise SchemaError("nested too deeply", where="schema") from None
    except UnicodeEncodeError:
        raise SchemaError("holds half of a surrogate pair", where="schema", expected="text that UTF-8 can hold") from None
    grammar.settle()
    if root.least == math.inf:
        missing = "" if len(grammar.writable) == 256 else " that the tokenizer's vocabulary can write"
        raise SchemaError(f"allows no value of at most {LONGEST_LEAST:,} bytes{missing}", where="schema")
    return root


class Compiler:
    """Items for one schema and all that it refers to."""

    def __init__(self, root: Any, values: Json) -> None:
        self.root, self.json = root, values
        self.rules: dict[str, Rule] = {}
        self.queue: list[tuple[Rule, Any, str]] = []
        self.apart: list[tuple[Sequence[Any], str]] = []  # options of ``oneOf``, to be compared when all that they refer to is known to be sound
        self.schemas = self.literals = 0
        self.resolved: dict[str, Any] = {}  # by pointer
        self.values: dict[int, dict[str, Any]] = {}  # of ``enum`` and ``const``, by the id of the schema, which the root holds
        self.kinds: dict[int, set[str]] = {}

    def compile_all(self) -> Item:
        """The root's item; the bodies of what is referred to follow one by one."""
        item = self._refer("#", "schema")
        while self.queue:
            rule, schema, where = self.queue.pop()
            rule.body = self.compile(schema, where)
        for options, where in self.apart:
            self._require_apart(options, where)
        return item

    def compile(self, schema: Any, where: str, depth: int = 0) -> Item:
        """The item of ``schema``, which stands at ``where``."""
        self.schemas += 1
        if self.schemas > MOST_SCHEMAS or depth > DEEPEST:
            raise SchemaError("too large", where=where, expected=f"at most {MOST_SCHEMAS:,} schemas, {DEEPEST} inside each other")
        if isinstance(schema, bool):
            return self.json.any_value if schema else self.json.never
        if not isinstance(schema, dict):
            raise SchemaError(f"found {_short(schema)}", where=where, expected="an object, true or false")
        self._require_known(schema, where)
        whole = next((keyword for keyword in WHOLE if keyword in schema), None)
        if whole is None:
            return self.json.grammar.alt(*(self._of_type(kind, schema, where, depth) for kind in self._types(schema, where)))
        self._require_alone(whole, schema, where)
        if whole in ("enum", "const"):
            return self._enumerated(schema, where)
        if whole == "$ref":
            return self._refer(schema["$ref"], where)
        return self._one_of(whole, schema, where, depth)

    # ── keywords ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _require_known(self, schema: Mapping[str, Any], where: str) -> None:
        for keyword in schema:
            if keyword in AT_THE_ROOT and (schema is self.root or keyword in ("$defs", "definitions")):
                continue
            if keyword not in DESCRIBING | TYPED | set(WHOLE) | {"type"}:
                raise UnsupportedKeyword(keyword, where)

    def _require_alone(self, keyword: str, schema: Mapping[str, Any], where: str) -> None:
        """Beside ``keyword`` nothing may stand that narrows it, but the type of listed values."""
        allowed = DESCRIBING | AT_THE_ROOT | {keyword} | ({"type", "enum", "const"} if keyword in ("enum", "const") else set())
        for other in schema:
            if other not in allowed:
                raise UnsupportedKeyword(other, where, remedy=f"It stands beside {keyword!r}; write it into the schemas there.")

    def _types(self, schema: Mapping[str, Any], where: str) -> Sequence[str]:
        """The types that ``schema`` names, or that its keywords speak of, or all."""
        if "type" in schema:
            named = schema["type"]
            kinds = list(dict.fromkeys(named)) if isinstance(named, list) and all(isinstance(kind, str) for kind in named) else [named]
            if not kinds or not all(isinstance(kind, str) and kind in OF_TYPE for kind in kinds):
                raise SchemaError(f"found {_short(named)}", where=f"{where}.type", expected=f"one or more of {', '.join(OF_TYPE)}")
        else:
            kinds = [kind for kind in OF_TYPE if kind != "integer"]
            kinds = [kind for kind in kinds if any(keyword in schema for keyword in OF_TYPE[kind])] or kinds
        return [kind for kind in kinds if not (kind == "integer" and "number" in kinds)]

    def _of_type(self, kind: str, schema: Mapping[str, Any], where: str, depth: int) -> Item:
        if kind == "object":
            return self._object(schema, where, depth)
        if kind == "array":
            return self._array(schema, where, depth)
        if kind == "string":
            return self.json.string(*_counts(schema, "minLength", "maxLength", where))
        if kind in ("number", "integer"):
            return self._numeric(kind, schema, where)
        return self.json.literals(["true", "false"] if kind == "boolean" else ["null"])

    def _array(self, schema: Mapping[str, Any], where: str, depth: int) -> Item:
        listed = schema.get("prefixItems", [])
        if not isinstance(listed, list):
            raise SchemaError(f"found {_short(listed)}", where=f"{where}.prefixItems", expected="a list of schemas")
        prefix = [self.compile(inner, f"{where}.prefixItems[{k}]", depth + 1) for k, inner in enumerate(listed)]
        item = self.compile(schema.get("items", True), f"{where}.items", depth + 1)
        return self.json.array(item, *_counts(schema, "minItems", "maxItems", where), prefix)

    def _object(self, schema: Mapping[str, Any], where: str, depth: int) -> Item:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict):
            raise SchemaError(f"found {_short(properties)}", where=f"{where}.properties", expected="an object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise SchemaError(f"found {_short(required)}", where=f"{where}.required", expected="a list of names")
        if len(required) > MOST_SCHEMAS:
            raise SchemaError(f"{len(required):,} names", where=f"{where}.required", expected=f"at most {MOST_SCHEMAS:,}")
        needed = dict.fromkeys(required)
        others = schema.get("additionalProperties", True)
        other = self.compile(others, f"{where}.additionalProperties", depth + 1)
        fields = [(name, self.compile(inner, f"{where}.properties.{name}", depth + 1), name in needed) for name, inner in properties.items()]
        fields += [(name, other, True) for name in needed if name not in properties]
        more = "additionalProperties" in schema or not fields
        return self.json.object(fields, other if more and others is not False else None)

    def _numeric(self, kind: str, schema: Mapping[str, Any], where: str) -> Item:
        low, high = _number(schema, "minimum", where, -math.inf), _number(schema, "maximum", where, math.inf)
        over, under = _number(schema, "exclusiveMinimum", where, -math.inf), _number(schema, "exclusiveMaximum", where, math.inf)
        above, below = over >= low > -math.inf or over > low, under <= high < math.inf or under < high
        low, high = max(low, over), min(high, under)
        if kind == "integer":
            return self.json.integer(*whole_bounds(low, high, above, below))
        least, most = whole_bounds(low, high, above, below)
        if least > most and low < high:
            raise SchemaError(f"no whole number lies between {low:g} and {high:g}, which is not supported", where=where, expected="wider bounds")
        return self.json.number(low, high, above, below)

    def _enumerated(self, schema: Mapping[str, Any], where: str) -> Item:
        values = self._listed(schema, where).values()
        kinds = self._types(schema, where) if "type" in schema else list(OF_TYPE)
        texts = [_text(value, where) for value in values if any(_is_a(kind, value) for kind in kinds)]
        self.literals += sum(map(len, texts))
        if self.literals > MOST_LITERALS:
            raise SchemaError("its values are too long", where=where, expected=f"at most {MOST_LITERALS:,} characters in all")
        return self.json.literals(texts)

    def _one_of(self, keyword: str, schema: Mapping[str, Any], where: str, depth: int) -> Item:
        options = schema[keyword]
        if not isinstance(options, list) or not options:
            raise SchemaError(f"found {_short(options)}", where=f"{where}.{keyword}", expected="a list of schemas")
        if keyword == "allOf" and len(options) > 1:
            raise UnsupportedKeyword("allOf", where, remedy="Write its schemas as one.")
        if keyword == "oneOf" and len(options) > DEEPEST:
            raise SchemaError(f"{len(options)} schemas", where=f"{where}.oneOf", expected=f"at most {DEEPEST}")
        items = [self.compile(option, f"{where}.{keyword}[{k}]", depth + 1) for k, option in enumerate(options)]
        if keyword == "oneOf":
            self.apart.append((options, where))
        return self.json.grammar.alt(*items)

    # ── oneOf: no value may fit two ───────────────────────────────────────────────────────────────────────────────────

    def _require_apart(self, options: Sequence[Any], where: str) -> None:
        if len(options) > DEEPEST:
            raise SchemaError(f"{len(options)} schemas", where=f"{where}.oneOf", expected=f"at most {DEEPEST}")
        for k, option in enumerate(options):
            for other in options[:k]:
                if not self._apart(option, other, where):
                    raise SchemaError(
                        f"a value might fit two of its schemas, as {options.index(other)} and {k}",
                        where=f"{where}.oneOf",
                        expected="schemas of different types, values or tags",
                        remedy="Use anyOf where that is no harm.",
                    )

    def _apart(self, a: Any, b: Any, where: str) -> bool:
        """Whether it is plain that no value fits both: other types, other values, or a required property that is apart."""
        a, b = self._followed(a, where), self._followed(b, where)
        if not isinstance(a, dict) or not isinstance(b, dict):
            return a is False or b is False
        if all("enum" in s or "const" in s for s in (a, b)):
            return self._listed(a, where).keys().isdisjoint(self._listed(b, where))
        kinds = [self._kinds(s, where) for s in (a, b)]
        if kinds[0].isdisjoint(kinds[1]):
            return True
        if not all(kind == {"object"} for kind in kinds):
            return False
        shared = set(a.get("required", [])) & set(b.get("required", [])) & set(a.get("properties", {})) & set(b.get("properties", {}))
        tags = [(a["properties"][name], b["properties"][name]) for name in shared]
        return any(all(isinstance(s, dict) and ("enum" in s or "const" in s) for s in pair) and self._apart(*pair, where) for pair in tags)

    def _kinds(self, schema: Mapping[str, Any], where: str) -> set[str]:
        """The types that a value of ``schema`` may have, whole numbers being numbers; all where that is not plain."""
        if id(schema) not in self.kinds:
            if "enum" in schema or "const" in schema:
                kinds = {kind for kind in OF_TYPE for value in self._listed(schema, where).values() if _is_a(kind, value)}
            else:
                kinds = set(self._types(schema, where)) if "type" in schema else set(OF_TYPE)
            self.kinds[id(schema)] = {"number" if kind == "integer" else kind for kind in kinds}
        return self.kinds[id(schema)]

    def _listed(self, schema: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The values that ``const`` and ``enum`` leave, by what they are equal in."""
        if id(schema) not in self.values:
            values = schema.get("enum", [schema.get("const")])
            if not isinstance(values, list):
                raise SchemaError(f"found {_short(values)}", where=f"{where}.enum", expected="a list of values")
            only = _key(schema["const"]) if "const" in schema else None
            keyed = {_key(value): value for value in reversed(values)}
            self.values[id(schema)] = keyed if only is None else {key: value for key, value in keyed.items() if key == only}
        return self.values[id(schema)]

    # ── references ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _followed(self, schema: Any, where: str) -> Any:
        for _ in range(DEEPEST):
            if not isinstance(schema, dict) or "$ref" not in schema:
                break
            schema = self._resolve(schema["$ref"], where)
        return schema

    def _refer(self, pointer: Any, where: str) -> Item:
        """The rule for what ``pointer`` names."""
        schema = self._resolve(pointer, where)
        if pointer not in self.rules:
            self.rules[pointer] = self.json.grammar.rule()
            self.queue.append((self.rules[pointer], schema, "schema" if pointer == "#" else f"schema{pointer[1:]}".replace("/", ".")))
        return self.rules[pointer]

    def _resolve(self, pointer: Any, where: str) -> Any:
        """The schema at a JSON pointer (RFC 6901) into the root."""
        if isinstance(pointer, str) and pointer in self.resolved:
            return self.resolved[pointer]
        if not isinstance(pointer, str) or not re.fullmatch(r"#(/.*)?", pointer, re.DOTALL):
            raise SchemaError(f"found {_short(pointer)}", where=f"{where}.$ref", expected="a reference into this schema, such as '#/$defs/name'")
        found = self.root
        for step in pointer.split("/")[1:]:
            name = urllib.parse.unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and len(name) < 6 and int(name) < len(found):
                found = found[int(name)]
            else:
                raise SchemaError(f"{_short(pointer)} leads nowhere", where=f"{where}.$ref")
        self.resolved[pointer] = found
        return found


def _counts(schema: Mapping[str, Any], low: str, high: str, where: str) -> tuple[int, int | None]:
    """The bounds called ``low`` and ``high``, whole numbers from 0 on."""
    for keyword in (low, high):
        value = schema.get(keyword, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf or value != int(value):
            raise SchemaError(f"found {_short(value)}", where=f"{where}.{keyword}", expected="a whole number from 0 on")
    return min(MOST_COUNT, int(schema.get(low, 0))), min(MOST_COUNT, int(schema[high])) if high in schema else None


def _number(schema: Mapping[str, Any], keyword: str, where: str, default: float) -> float:
    value = schema.get(keyword, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or (keyword in schema and not abs(value) <= 1e300):
        raise SchemaError(f"found {_short(value)}", where=f"{where}.{keyword}", expected="a number")
    return value


_TYPE_TESTS: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer()),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def _is_a(kind: str, value: Any) -> bool:
    return _TYPE_TESTS[kind](value)


def _text(value: Any, where: str) -> str:
    """``value`` in JSON, as the grammar writes it."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        raise SchemaError(f"found {_short(value)}", where=where, expected="a JSON value") from None


def _key(value: Any) -> str:
    """Equal for values that JSON Schema holds to be equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{json.dumps(name)}:{_key(inner)}" for name, inner in value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_key, value)) + "]"
    return _text(int(value) if isinstance(value, float) and value.is_integer() else value, "schema")


def _short(value: Any) -> str:
    try:
        return repr(value)[:60]
    except ValueError:  # Python writes no whole number of thousands of digits
        return "a number of too many digits"
