"""Whether one Avro schema reads another's data: by the specification's cases, and by fastavro reading what was written."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from millstream.errors import Refused
from millstream.schemas.avrocompat import AVRO_MODES, check, incompatibilities

Schema = Any


def record(*fields: Schema, name: str = "R", **more: Any) -> Schema:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, type_: Schema, **more: Any) -> Schema:
    return {"name": name, "type": type_, **more}


def enum(*symbols: str, name: str = "E", **more: Any) -> Schema:
    return {"type": "enum", "name": name, "symbols": list(symbols), **more}


def fixed(size: int, name: str = "F", **more: Any) -> Schema:
    return {"type": "fixed", "name": name, "size": size, **more}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def map_(values: Schema) -> Schema:
    return {"type": "map", "values": values}


def decimal(precision: int, scale: int) -> Schema:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


def found(reader: Schema, writer: Schema) -> list[tuple[str, str]]:
    return [(i.path, i.kind) for i in incompatibilities(json.dumps(reader), json.dumps(writer))]


PRIMITIVES = ["null", "boolean", "int", "long", "float", "double", "string", "bytes"]
PROMOTED = {
    ("long", "int"), ("float", "int"), ("double", "int"), ("float", "long"), ("double", "long"), ("double", "float"),
    ("string", "bytes"), ("bytes", "string"),
}  # fmt: skip
NODE = record(field("v", "int"), field("next", ["null", "R"]))
MISMATCH, NAME, UNION = "TYPE_MISMATCH", "NAME_MISMATCH", "MISSING_UNION_BRANCH"
MISSING, SYMBOLS, SIZE = "READER_FIELD_MISSING_DEFAULT_VALUE", "MISSING_ENUM_SYMBOLS", "FIXED_SIZE_MISMATCH"


@pytest.mark.parametrize("reader", PRIMITIVES)
def test_primitives_are_promoted_as_the_specification_says(reader: str) -> None:
    for writer in PRIMITIVES:
        expected = [] if reader == writer or (reader, writer) in PROMOTED else [("", MISMATCH)]
        assert found(reader, writer) == expected, writer
        assert found({"type": reader, "logicalType": "odd"}, writer) == expected, writer


@pytest.mark.parametrize(
    ("reader", "writer"),
    [
        (array("long"), array("int")),
        (map_("bytes"), map_("string")),
        (record(field("a", "int")), record(field("a", "int"), field("b", "int"))),
        (record(field("a", "int"), field("b", "int", default=1)), record(field("a", "int"))),
        (record(field("b", "int"), field("a", "long")), record(field("a", "int"), field("b", "int"))),
        (record(field("x", "int", aliases=["a"])), record(field("a", "int"))),
        (record(field("a", "int"), name="x.R"), record(field("a", "int"), name="y.R")),
        (record(field("a", "int"), name="New", aliases=["R"]), record(field("a", "int"))),
        (record(field("a", "int"), name="New", namespace="n", aliases=["R"]), record(field("a", "int"), name="n.R")),
        (enum("A", "B", "C"), enum("B", "A")),
        (enum("A", default="A"), enum("A", "B")),
        (enum("A", name="N", aliases=["E"]), enum("A")),
        (fixed(4), fixed(4, name="other.F")),
        (["null", "int"], "null"),
        (["null", "long"], "int"),
        (["null", "long"], ["int", "null"]),
        ("long", ["int", "long"]),
        (["string", "null"], ["null", "bytes"]),
        ([array("long"), "int"], array("int")),
        (["null", record(field("a", "long"))], record(field("a", "int"))),
        (decimal(8, 2), decimal(8, 2)),
        ("bytes", decimal(8, 2)),
        (decimal(8, 2), "bytes"),
        (decimal(8, 9), decimal(8, 2)),  # holds not together, so it is bytes
        (NODE, NODE),
        (record(field("v", "long"), field("next", ["null", "R"]), field("w", "int", default=0)), NODE),
        (record(field("a", fixed(2)), field("b", "F")), record(field("b", fixed(2)), field("a", "F"))),
        (record(field("a", {"type": "error", "name": "X", "fields": []})), record(field("a", record(name="X")))),
    ],
)  # fmt: skip
def test_what_can_be_read(reader: Schema, writer: Schema) -> None:
    assert found(reader, writer) == []


@pytest.mark.parametrize(
    ("reader", "writer", "why"),
    [
        (array("int"), array("long"), [("[]", MISMATCH)]),
        (map_("int"), map_("long"), [("{}", MISMATCH)]),
        (array("int"), map_("int"), [("", MISMATCH)]),
        (record(field("b", "int")), record(field("a", "int")), [("b", MISSING)]),
        (record(field("a", "int")), record(field("a", "string")), [("a", MISMATCH)]),
        (record(field("a", "int"), name="S"), record(field("a", "int")), [("", NAME)]),
        (record(field("a", "int"), name="New", aliases=["z.R"]), record(field("a", "int")), [("", NAME)]),
        (record(field("a", "int")), record(field("a", "int"), name="New", aliases=["R"]), [("", NAME)]),  # the writer's count not
        (enum("A"), enum("A", "B"), [("", SYMBOLS)]),
        (enum("A"), enum("A", default="A", name="X"), [("", NAME)]),
        (enum("A"), enum("A", "B", default="A"), [("", SYMBOLS)]),  # nor does its default
        (fixed(4), fixed(8), [("", SIZE)]),
        (fixed(4, name="G"), fixed(4), [("", NAME)]),
        (["null", "int"], "long", [("", UNION)]),
        (["null", "int"], ["null", "int", "string"], [("", UNION)]),
        ("int", ["int", "null"], [("", MISMATCH)]),
        ([record(field("a", "int")), "null"], record(field("a", "string")), [("a", MISMATCH)]),
        ([record(field("a", "int"), name="S"), "null"], record(field("a", "int")), [("", UNION)]),
        (decimal(8, 2), decimal(8, 3), [("", MISMATCH)]),
        (decimal(9, 2), decimal(8, 2), [("", MISMATCH)]),
        (NODE, record(field("v", "string"), field("next", ["null", "R"])), [("v", MISMATCH)]),
        (
            record(field("a", record(field("x", "int"), name="X")), field("b", "X")),
            record(field("a", record(field("x", "string"), name="X")), field("b", "X")),
            [("a.x", MISMATCH), ("b.x", MISMATCH)],
        ),
        (
            record(field("cast", array(["null", record(field("x", "int"), field("y", "int"), name="X")]))),
            record(field("cast", array(["null", record(field("x", "string"), name="X")]))),
            [("cast[].x", MISMATCH), ("cast[].y", MISSING)],
        ),
    ],
)  # fmt: skip
def test_what_cannot(reader: Schema, writer: Schema, why: list[tuple[str, str]]) -> None:
    assert found(reader, writer) == why


def test_what_rested_on_a_record_that_cannot_be_read_after_all_is_asked_again() -> None:
    """B is looked at inside A, while A is still held for readable; then A fails, and B with it, beside A too."""

    def schema(last: str) -> Schema:
        b = record(field("a", ["null", "A"]), name="B")
        a = record(field("b", b), field("z", last), name="A")
        return record(field("u", [a, "null"]), field("v", ["null", "B"]))

    assert [path for path, _ in found(schema("int"), schema("string"))] == ["u.z", "v.a.z"]


def test_a_reason_in_a_branch_that_was_not_taken_is_told_where_it_counts() -> None:
    """The first branch fails quietly, for the second reads it; where the first stands alone it must be told of."""
    one = record(field("x", "string"), name="One", aliases=["A"])
    two = record(field("x", "int"), name="Two", aliases=["A"])
    writer = record(field("u", record(field("x", "int"), name="A")), field("y", "A"))
    assert found(record(field("u", [one, two]), field("y", "One")), writer) == [("y.x", MISMATCH)]


def test_messages_say_what_and_where() -> None:
    (why,) = incompatibilities(json.dumps(record(field("e", enum("A")))), json.dumps(record(field("e", enum("A", "B", "C")))))
    assert str(why) == "e: the reader's enum has no B, C and no default for them"


def test_a_text_that_is_no_schema_is_refused() -> None:
    for text in ("{", '"X"', '{"type": "record", "name": "R"}'):
        with pytest.raises(Refused):
            incompatibilities(text, '"int"')


def test_what_is_nested_too_deeply_is_refused_and_named_types_are_not() -> None:
    def nested(depth: int, last: str) -> str:
        return '{"type": "array", "items": ' * depth + json.dumps(last) + "}" * depth

    assert incompatibilities(nested(50, "long"), nested(50, "int")) == []
    for depth in (150, 300, 450, 100_000):
        try:
            incompatibilities(nested(depth, "long"), nested(depth, "int"))
        except Refused as e:
            assert (e.code, "deep" in e.message) == ("avro_schema", True)


def test_a_long_schema_is_compared_like_any_other() -> None:
    many = [field(f"column_{i}", ["null", "int"]) for i in range(3000)]
    reader, writer = record(*many, field("last", "int")), record(*many, field("last", "string"))
    assert len(json.dumps(reader)) > 1 << 16
    assert found(reader, writer) == [("last", MISMATCH)]


# ---- the modes ---------------------------------------------------------------------------------------------------------

V1 = record(field("a", "int"))
V2 = record(field("a", "int"), field("b", "int", default=0))
V3 = record(field("a", "long"), field("b", "int", default=0))
NEW = record(field("b", "int"), field("a", "long"))  # reads what V2 and V3 wrote, not what V1 did; none but V3 reads it


@pytest.mark.parametrize(
    ("mode", "earlier", "expected"),
    [
        ("BACKWARD", [V1, V2, V3], []),
        ("BACKWARD_TRANSITIVE", [V1, V2, V3], [("b", "backward", 0)]),
        ("FORWARD", [V1, V2, V3], []),
        ("FORWARD_TRANSITIVE", [V1, V2, V3], [("a", "forward", 1), ("a", "forward", 0)]),
        ("FULL", [V1, V2, V3], []),
        ("FULL", [V3, V1], [("b", "backward", 1), ("a", "forward", 1)]),
        ("FULL_TRANSITIVE", [V1, V2, V3], [("a", "forward", 1), ("b", "backward", 0), ("a", "forward", 0)]),
        ("NONE", [V1, "string"], []),
        ("FULL_TRANSITIVE", [], []),
    ],
)
def test_modes(mode: Any, earlier: list[Schema], expected: list[tuple[str, str, int]]) -> None:
    breaches = check(mode, json.dumps(NEW), [json.dumps(e) for e in earlier])
    assert [(b.path, b.direction, b.earlier) for b in breaches] == expected


def test_every_mode_takes_the_same_schema_again() -> None:
    for mode in AVRO_MODES:
        assert check(mode, json.dumps(NODE), [json.dumps(NODE)] * 2) == []


# ---- against fastavro --------------------------------------------------------------------------------------------------


class Draw:
    """Builds a schema and then another version of it. Every named type is used where it is defined, and sometimes again."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw, self._count, self._records = draw, 0, [""]

    def one(self, *of: Any) -> Any:
        return self._draw(st.sampled_from(of))

    def name(self) -> str:
        self._count += 1
        return f"N{self._count}"

    def schema(self, depth: int) -> Schema:
        kind = self.one("plain", "plain", "enum", "fixed", *(("record", "record", "array", "map", "union", "again") if depth else ()))
        match kind:
            case "plain":
                return self.one(*PRIMITIVES)
            case "enum":
                name = self.name()  # no two enums share a symbol, nor two fixed a size: fastavro tells branches by values
                return enum(*(f"{s}_{name}" for s in "ABC"[: self.one(1, 2, 3)]), name=name)
            case "fixed":
                return fixed(10 + self._count, name=self.name())
            case "record":
                return self.record(depth)
            case "array":
                return array(self.schema(depth - 1))
            case "map":
                return map_(self.schema(depth - 1))
            case "again":  # of a record that is around: only where it may be null or empty is that finite
                around = [r for r in self._records if r]
                return self.one(["null", around[-1]], array(around[-1])) if around else "int"
        branches = [self.schema(depth - 1) for _ in range(self.one(2, 3))]
        # To fastavro a value of an enum is one of string too, and bytes are an array: it takes the branch that comes first.
        kinds = {"union" if isinstance(b, list) else b if isinstance(b, str) else b["type"] for b in branches}
        unclear = {"string"} if "enum" in kinds else set()
        unclear |= {"bytes", "fixed"} if "array" in kinds else {"bytes"} if "fixed" in kinds else set()
        return [b for b in unique(branches) if (b if isinstance(b, str) else b["type"]) not in unclear] or "int"

    def record(self, depth: int) -> Schema:
        name = self.name()
        self._records.append(name)
        fields = [field(f"f{i}", self.schema(depth - 1)) for i in range(self.one(1, 2, 3))]
        self._records.pop()
        return record(*fields, name=name)

    def version(self, schema: Schema) -> Schema:
        """The schema, with some of its parts changed, or none."""
        if isinstance(schema, list):
            branches = unique([self.version(b) for b in schema]) or schema
            match self.one("", "", "less", "null"):
                case "less":
                    return branches[1:] or branches
                case "null":
                    return unique([*branches, "null"])
            return branches
        if isinstance(schema, str):
            return self.one(schema, schema, schema, *PRIMITIVES, ["null", schema]) if schema in PRIMITIVES else schema
        match schema["type"]:
            case "enum":
                symbols = self.one(schema["symbols"], schema["symbols"][:1], [*schema["symbols"], "D"])
                return {**schema, "symbols": symbols} | self.one({}, {}, {"default": symbols[0]})
            case "fixed":
                return {**schema, "size": self.one(schema["size"], schema["size"], 3)}
            case "array":
                return array(self.version(schema["items"]))
            case "map":
                return map_(self.version(schema["values"]))
        fields = [{**f, "type": self.version(f["type"])} for f in schema["fields"]]
        match self.one("", "", "drop", "add", "default", "rename"):
            case "drop" if len(fields) > 1:
                fields = fields[1:]
            case "add":
                fields = [*fields, field("new", "int")]
            case "default":
                fields = [field("new", "int", default=7), *fields]
            case "rename":
                fields[-1] = {**fields[-1], "name": "other", "aliases": [fields[-1]["name"]]}
        return {**schema, "fields": fields}


def unique(branches: list[Schema]) -> list[Schema]:
    """As many of the branches as may stand in one union; none where a name of one would be missing without another."""
    kept: dict[str, Schema] = {}
    for b in branches:
        if not isinstance(b, list):
            kept.setdefault(b if isinstance(b, str) else b.get("name", b["type"]), b)
    return list(kept.values())


@st.composite
def versions(draw: st.DrawFn) -> tuple[Schema, Schema]:
    made = Draw(draw)
    schema = made.record(3)
    return made.version(schema), schema


def values(schema: Schema, named: dict[str, Schema], depth: int = 3) -> list[Any]:
    """Values that together take every way through the schema: each branch, each symbol, each part."""
    if isinstance(schema, list):
        if depth <= 0 and "null" in schema:
            return [None]
        return [v for b in schema for v in tagged(b, values(b, named, depth))]
    if isinstance(schema, str) and schema not in PRIMITIVES:
        return values(named[schema], named, depth - 1)
    match schema if isinstance(schema, str) else schema["type"]:
        case "null":
            return [None]
        case "boolean":
            return [True]
        case "int" | "long":
            return [5]
        case "float" | "double":
            return [1.5]
        case "string":
            return ["no symbol"]
        case "bytes":
            return [b"bytes"]  # shorter than any fixed
        case "enum":
            return list(schema["symbols"])
        case "fixed":
            return [b"y" * schema["size"]]
        case "array":
            return [[v] for v in values(schema["items"], named, depth)] if depth > 0 else [[]]
        case "map":
            return [{"k": v} for v in values(schema["values"], named, depth)] if depth > 0 else [{}]
    named[schema["name"]] = schema
    parts = [values(f["type"], named, depth) for f in schema["fields"]]
    rows = [{f["name"]: p[min(i, len(p) - 1)] for f, p in zip(schema["fields"], parts, strict=True)} for i in range(max(map(len, parts)))]
    return rows


def tagged(branch: Schema, found: list[Any]) -> list[Any]:
    """With the branch's name where fastavro would have to guess it."""
    if isinstance(branch, dict) and branch["type"] == "record":
        return [(branch["name"], v) for v in found]
    return found


def read_back(reader: Schema, writer: Schema, value: Any) -> str:
    """ "" where fastavro reads the value, else its complaint."""
    data = BytesIO()
    fastavro.schemaless_writer(data, fastavro.parse_schema(writer), value)
    data.seek(0)
    try:
        fastavro.schemaless_reader(data, fastavro.parse_schema(writer), fastavro.parse_schema(reader))
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return ""


BULKY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@settings(BULKY, max_examples=80)
@given(versions())
def test_fastavro_reads_exactly_what_can_be_read(pair: tuple[Schema, Schema]) -> None:
    reads_what_can_be_read(*pair)


@pytest.mark.long
@settings(BULKY, max_examples=2_000)
@given(versions())
def test_fastavro_reads_exactly_what_can_be_read_of_many_more(pair: tuple[Schema, Schema]) -> None:
    reads_what_can_be_read(*pair)


def reads_what_can_be_read(reader: Schema, writer: Schema) -> None:
    for schema in (reader, writer):
        try:
            incompatibilities(json.dumps(schema), '"int"')
        except Refused:
            assume(False)
    why = found(reader, writer)
    complaints = [c for value in values(writer, {}) if (c := read_back(reader, writer, value))]
    assert bool(why) is bool(complaints), (why, complaints)
