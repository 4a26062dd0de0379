"""What happened to a row: operation, before, after and the changed fields of every kind of statement, from the table into the topic.

Each case has keys of its own and says, statement by statement, what it makes of which rows. A log tells each of these; CockroachDB tells,
for each key, what a transaction made of it in the end, and nothing of a row that was not there before or after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from capture_rig import Captured
from cockroach_rig import CockroachRig
from sources_rig import PostgresRig

pytestmark = pytest.mark.servers

M = "public.m"
Image = dict[str, Any]
Told = tuple[str, Image | None, Image | None]
OLD, NEW = datetime(2020, 5, 17, 8, 30, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Step:
    """A statement and what it makes of rows, in this order: key → image, None where the row is gone."""

    statement: str
    makes: Sequence[tuple[int, Image | None]]


@dataclass(frozen=True)
class Case:
    """`transactions` one after the other; `changed`: of each update that is told, in the order of keys, the fields that differ."""

    transactions: Sequence[Sequence[Step]]
    changed: Sequence[set[str]] = ()
    net_changed: Sequence[set[str]] | None = None
    """Where a transaction is told as its end, if that is something else."""


def image(key: int, v: str | None = "v", n: int | None = None, expires: datetime | None = None) -> Image:
    return {"id": key, "v": v, "n": n, "expires": expires}


def _values(i: Image) -> str:
    v, n = ("NULL" if i[name] is None else repr(i[name]) for name in ("v", "n"))
    expires = "NULL" if i["expires"] is None else f"'{i['expires'].isoformat()}'"
    return f"({i['id']}, {v}, {n}, {expires})"


def insert(*images: Image) -> Step:
    return Step(f"INSERT INTO m VALUES {', '.join(map(_values, images))}", [(i["id"], i) for i in images])


def upsert(*images: Image) -> Step:
    return Step(f"UPSERT INTO m VALUES {', '.join(map(_values, images))}", [(i["id"], i) for i in images])


def update(where: str, what: str, *images: Image) -> Step:
    return Step(f"UPDATE m SET {what} WHERE {where}", [(i["id"], i) for i in images])


def delete(where: str, *keys: int) -> Step:
    return Step(f"DELETE FROM m WHERE {where}", [(k, None) for k in keys])


CASES = {
    "insert": Case([[insert(image(1, "x", 3, NEW))]]),
    "update": Case([[insert(image(11, "x", 3))], [update("id = 11", "v = 'y', n = NULL", image(11, "y"))]], [{"v", "n"}]),
    "null to value": Case([[insert(image(12, None))], [update("id = 12", "v = ''", image(12, ""))]], [{"v"}]),
    "update that changes nothing": Case([[insert(image(21, "x", 3))], [update("id = 21", "v = v, n = 3", image(21, "x", 3))]], [set()]),
    "delete": Case([[insert(image(31, "x", 3, OLD))], [delete("id = 31", 31)]]),
    "delete and insert again": Case([[insert(image(41, "x"))], [delete("id = 41", 41)], [insert(image(41, "y", 1))]]),
    "delete and insert again in one transaction": Case(
        [[insert(image(51, "x", 1))], [delete("id = 51", 51), insert(image(51, "y", 1))]], [], net_changed=[{"v"}]
    ),
    "another primary key": Case(
        [[insert(image(61, "x", 1))], [Step("UPDATE m SET id = 62 WHERE id = 61", [(61, None), (62, image(62, "x", 1))])]]
    ),
    "another primary key, and back": Case(
        [
            [insert(image(63, "x"))],
            [Step("UPDATE m SET id = 64, v = 'y' WHERE id = 63", [(63, None), (64, image(64, "y"))])],
            [Step("UPDATE m SET id = 63 WHERE id = 64", [(64, None), (63, image(63, "y"))])],
        ]
    ),
    "upsert": Case([[upsert(image(71, "x"))], [upsert(image(71, "y", 2), image(72, "z"))], [upsert(image(72, "z"))]], [{"v", "n"}, set()]),
    "several rows": Case(
        [
            [insert(image(81, "a", 1), image(82, "b", 2), image(83, "c", 3))],
            [
                update("id BETWEEN 81 AND 82", "n = n + 10", image(81, "a", 11), image(82, "b", 12)),
                delete("id = 83", 83),
                insert(image(84, "d")),
            ],
        ],
        [{"n"}, {"n"}],
    ),
    "one row several times in a transaction": Case(
        [
            [insert(image(91, "a", 1))],
            [update("id = 91", "v = 'b'", image(91, "b", 1)), update("id = 91", "n = 2", image(91, "b", 2))],
        ],
        [{"v"}, {"n"}],
        net_changed=[{"v", "n"}],
    ),
    "insert and delete in one transaction": Case([[insert(image(101, "x")), delete("id = 101", 101)]]),
    "expired rows go by and by": Case(
        [
            [insert(image(111, "x", None, OLD), image(112, "y", None, OLD), image(113, "z", None, NEW), image(114, "w", None, OLD))],
            [delete("id IN (111, 112) AND expires < '2021-01-01 00:00:00+00'", 111, 112)],
            [delete("id BETWEEN 113 AND 119 AND expires < '2021-01-01 00:00:00+00'", 114)],
        ]
    ),
}


def expected(case: Case, *, net: bool) -> dict[int, list[Told]]:
    rows: dict[int, Image] = {}
    told: dict[int, list[Told]] = {}

    def tell(key: int, was: Image | None, became: Image | None) -> None:
        if was is not None or became is not None:
            told.setdefault(key, []).append(("c" if was is None else "d" if became is None else "u", was, became))

    for transaction in case.transactions:
        before, touched = dict(rows), dict[int, None]()
        for key, became in (made for step in transaction for made in step.makes):
            if not net:
                tell(key, rows.get(key), became)
            touched[key] = None
            rows.pop(key, None)
            if became is not None:
                rows[key] = became
        if net:
            for key in touched:
                tell(key, before.get(key), rows.get(key))
    return told


def changed(told: dict[int, list[Told]]) -> list[set[str]]:
    """Of each update, key by key, which fields differ."""
    updates = [(b, a) for key in sorted(told) for op, b, a in told[key] if op == "u" and b is not None and a is not None]
    return [{name for name in a if a[name] != b[name]} for b, a in updates]


def hold(rig: PostgresRig | CockroachRig, folder: Path, *, net: bool) -> Captured:
    """Run all cases beside a connector that follows, and hold its topic against what they say."""
    captured = Captured(rig, folder, {"tables": (M,)})
    captured.catch_up()
    for case in CASES.values():
        for transaction in case.transactions:
            rig.transaction(*(s.statement if net else _as_postgres(s.statement) for s in transaction))
    captured.catch_up()
    topic: dict[int, list[Told]] = {}
    for event in captured.events(M):
        told = (event["op"], event["before"], event["after"])
        topic.setdefault((event["after"] or event["before"])["id"], []).append(told)
    for name, case in CASES.items():
        wanted = expected(case, net=net)
        keys = {key for t in case.transactions for step in t for key, _ in step.makes}
        found = {key: topic.pop(key) for key in sorted(keys) if key in topic}
        assert found == wanted, name
        assert changed(found) == list(case.changed if not net or case.net_changed is None else case.net_changed), name
    assert topic == {}, "events of keys that nobody touched"
    captured.check_order(M)
    return captured


def _as_postgres(statement: str) -> str:
    if not statement.startswith("UPSERT"):
        return statement
    replaced = ", ".join(f"{name} = excluded.{name}" for name in ("v", "n", "expires"))
    return f"INSERT{statement.removeprefix('UPSERT')} ON CONFLICT (id) DO UPDATE SET {replaced}"


def test_on_a_log(rig: PostgresRig, tmp_path: Path) -> None:
    rig.run("CREATE TABLE m (id integer PRIMARY KEY, v text, n integer, expires timestamptz)", "ALTER TABLE m REPLICA IDENTITY FULL")
    hold(rig, tmp_path, net=False).close()


def test_on_cockroachdb(roach: CockroachRig, tmp_path: Path) -> None:
    roach.run("CREATE TABLE m (id INT8 PRIMARY KEY, v STRING, n INT4, expires TIMESTAMPTZ)")
    captured = hold(roach, tmp_path, net=True)
    assert captured.state()["dropped"]["deletes of nothing"] >= 1
    captured.close()
