"""Random changes of random schemas: the levels decide as they do in Apicurio, which asks Avro's own library for Java."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from millstream.errors import Refused
from millstream.schemas.avrocompat import check
from millstream.testing.apicurio_server import ApicurioServer

pytestmark = [pytest.mark.long, pytest.mark.servers, pytest.mark.timeout(600)]

PAIRS = 250
LEVELS = ("BACKWARD", "FORWARD", "FULL")
PLAIN = ("boolean", "int", "long", "float", "double", "string", "bytes")


@pytest.fixture(scope="module")
def apicurio() -> Iterator[httpx2.Client]:
    try:
        server = ApicurioServer()
    except Refused as error:
        pytest.skip(f"verdicts are not compared with Apicurio's: {error}")
    with server as address, httpx2.Client(base_url=address, timeout=30) as http:
        yield http


class Schemas:
    """Random ones. A name is given once in a schema."""

    def __init__(self, dice: random.Random) -> None:
        self._dice, self._names = dice, 0

    def type(self, depth: int = 2) -> Any:
        kind = self._dice.choice([*PLAIN, *PLAIN, "enum", "fixed", *(("record", "array", "map", "union") if depth else ())])
        if kind in PLAIN:
            return kind
        if kind == "array":
            return {"type": "array", "items": self.type(depth - 1)}
        if kind == "map":
            return {"type": "map", "values": self.type(depth - 1)}
        if kind == "union":
            return ["null", *self._dice.sample(PLAIN, self._dice.randint(1, 3))]
        self._names += 1
        name = f"N{self._names}"
        if kind == "enum":
            made = {"type": "enum", "name": name, "symbols": self._dice.sample(["A", "B", "C", "D"], self._dice.randint(1, 4))}
            return {**made, "default": made["symbols"][0]} if self._dice.random() < 0.3 else made
        if kind == "fixed":
            return {"type": "fixed", "name": name, "size": self._dice.randint(1, 3)}
        return {"type": "record", "name": name, "fields": [self.field(f"f{n}", depth - 1) for n in range(self._dice.randint(1, 3))]}

    def field(self, name: str, depth: int) -> dict[str, Any]:
        made = {"name": name, "type": self.type(depth)}
        defaults: dict[str, Any] = {"boolean": True, "int": 1, "long": 2, "float": 1.5, "double": 2.5, "string": "x", "bytes": "b"}
        kind = made["type"]
        if self._dice.random() < 0.4:
            if isinstance(kind, list):
                made["default"] = None
            elif isinstance(kind, str):
                made["default"] = defaults[kind]
            elif kind["type"] in ("array", "map"):
                made["default"] = [] if kind["type"] == "array" else {}
        return made

    def record(self) -> dict[str, Any]:
        return {"type": "record", "name": "R", "fields": [self.field(f"f{n}", 2) for n in range(self._dice.randint(1, 4))]}

    def changed(self, schema: Any) -> Any:
        """The schema with a few things other than they were."""
        dice = self._dice
        if isinstance(schema, str):
            return dice.choice(PLAIN) if dice.random() < 0.15 else schema
        if isinstance(schema, list):
            if dice.random() < 0.3:
                return ["null", *dice.sample(PLAIN, dice.randint(1, 3))]
            return schema[1] if dice.random() < 0.1 else schema
        made = dict(schema)
        if made["type"] == "enum" and dice.random() < 0.3:
            made["symbols"] = dice.sample(["A", "B", "C", "D", "E"], dice.randint(1, 5))
            if made.get("default") not in made["symbols"]:
                made.pop("default", None)
        if made["type"] == "fixed" and dice.random() < 0.2:
            made["size"] = dice.randint(1, 3)
        for part in ("items", "values"):
            if part in made:
                made[part] = self.changed(made[part])
        if made["type"] == "record":
            fields = [self._changed_field(f) for f in made["fields"] if dice.random() > 0.12]
            made["fields"] = fields + ([self.field(f"g{self._names}", 1)] if dice.random() < 0.2 else [])
        return made

    def _changed_field(self, field: dict[str, Any]) -> dict[str, Any]:
        kind = self.changed(field["type"])
        made = {**field, "type": kind}
        if kind != field["type"] or self._dice.random() < 0.1:
            made.pop("default", None)
            if isinstance(kind, list):
                made["default"] = None
        if self._dice.random() < 0.05:
            return {**made, "name": f"{field['name']}x", **({"aliases": [field["name"]]} if self._dice.random() < 0.5 else {})}
        return made


def test_verdicts_are_the_same(apicurio: httpx2.Client) -> None:
    told = {True: 0, False: 0}
    for seed in range(PAIRS):
        schemas = Schemas(random.Random(seed))
        earlier = schemas.record()
        new = json.dumps(schemas.changed(earlier))
        text, subject = json.dumps(earlier), f"random-{seed}"
        assert apicurio.post(f"/subjects/{subject}/versions", json={"schema": text}).status_code == 200
        for level in LEVELS:
            apicurio.put(f"/config/{subject}", json={"compatibility": level}).raise_for_status()
            answer = apicurio.post(f"/compatibility/subjects/{subject}/versions/latest", json={"schema": new}).json()
            ours = check(level, new, [text])  # type: ignore[arg-type]
            assert answer["is_compatible"] is not bool(ours), f"{level}\n{text}\n{new}\nours: {[str(b) for b in ours]}"
            told[not ours] += 1
    assert min(told.values()) > PAIRS / 3, "both verdicts are met often"
