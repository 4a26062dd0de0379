"""`schemas diff`: what turns one version of a topic's schema into another, for people and for programs."""

from __future__ import annotations

import pytest

from millstream.events.envelope import value_schema
from millstream.events.types import Constant, Field, RowSchema, Type
from millstream.schemas.sql import SqlRegistry, sqlite_engine

from .conftest import ORDERS

TOPIC = "shop.public.orders"
SECOND = RowSchema((*ORDERS.fields, Field("kind", Type("text"), 4, fill=Constant("plain"))), ("id",))
THIRD = RowSchema((ORDERS.fields[0], Field("amount", Type("int64"), 2), SECOND.fields[3]), ("id",))


def register(shop, *schemas: RowSchema) -> None:
    engine = sqlite_engine(shop.home / "mesh.db")
    for schema in schemas:
        SqlRegistry(engine).register(f"{TOPIC}-value", value_schema(TOPIC, schema))
    engine.dispose()


@pytest.fixture
def applied(shop):
    assert shop("apply").code == 0
    register(shop, SECOND, THIRD)
    return shop


def test_the_newest_version_is_compared_with_the_one_before(applied) -> None:
    found = applied("schemas", "diff", TOPIC, "--json").json
    assert (found["topic"], found["from"], found["to"]) == (TOPIC, 2, 3)
    assert [(o["kind"], o["path"], o["text"], o["adds"], o["destroys"]) for o in found["operations"]] == [
        ("drop", ["note"], "dropped note", False, True),
        ("widen", ["amount"], "widened amount (int32 is now int64)", True, False),
    ]
    assert found["operations"][0]["was"]["type"] == "text" and found["operations"][0]["now"] is None
    said = applied("schemas", "diff", TOPIC).out
    assert "version 2 to 3" in said and "widened amount (int32 is now int64)" in said


def test_any_two_versions_may_be_compared(applied) -> None:
    assert [o["kind"] for o in applied("schemas", "diff", TOPIC, "--from", "1", "--to", "3", "--json").json["operations"]] == [
        "drop", "widen", "add",
    ]  # fmt: skip
    (back,) = applied("schemas", "diff", f"{TOPIC}-value", "--from", "2", "--to", "1", "--json").json["operations"]
    assert (back["kind"], back["was"]["fill"]) == ("drop", {"constant": "plain"})
    assert "no difference" in applied("schemas", "diff", TOPIC, "--from", "2", "--to", "2").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("shop.public.order",), "did you mean shop.public.orders?"),
        ((f"{TOPIC}-key",), "not the schema of a topic's rows"),
        ((TOPIC, "--to", "1"), "no version before 1"),
        ((TOPIC, "--from", "9"), "its versions are 1, 2, 3"),
    ],
)
def test_what_is_not_there_is_refused_with_a_way_out(applied, arguments: tuple[str, ...], says: str) -> None:
    answer = applied("schemas", "diff", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert says in answer.err
