"""`millstream query`: topics and states by SQL, beside a running process and without one."""

from __future__ import annotations

import stat
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millstream.cli.answers import VERSION
from millstream.control import client
from millstream.control.protocol import socket_path
from millstream.errors import Refused

JOINED = """\
pipeline: paired
owner: team-shop
steps:
  - name: paired
    sql: SELECT o.id, o.amount, n.note AS other FROM shop.public.orders o LEFT JOIN shop.public.orders n ON n.id = o.id
    key: [id]
"""


@pytest.fixture
def ran(shop):
    shop.write("pipelines/paired.yaml", JOINED)
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    return shop


def test_topics_by_sql(ran) -> None:
    sql = "SELECT o.id, p.other FROM shop.public.orders o JOIN paired.paired p ON p.id = o.id WHERE o.amount > 100 ORDER BY 1"
    assert ran("query", sql, "--json").lines == [{"id": 2, "other": "green tea"}, {"id": 3, "other": "black tea"}]
    assert "green tea" in ran("query", sql).out
    events = ran("query", "SELECT after.id AS id FROM large.large ORDER BY id", "--events", "--json")
    assert events.lines == [{"id": 2}, {"id": 3}]
    cut = ran("query", "SELECT id FROM shop.public.orders", "--limit", "2")
    assert "more than 2 rows" in cut.err
    file = ran.folder / "out.arrow"
    assert ran("query", "SELECT id, note FROM large.large", "--limit", "0", "--arrow", str(file)).code == 0
    with pa.OSFile(str(file)) as opened, pa.ipc.open_stream(opened) as stream:
        assert sorted(stream.read_all().column("id").to_pylist()) == [2, 3]


def test_the_tables_are_listed_with_their_columns(ran) -> None:
    found = {t["table"]: [c["name"] for c in t["columns"]] for t in ran("query", "--tables", "--json").json}
    assert found["shop.public.orders"] == ["id", "amount", "note"]
    assert "state.paired.last paired" in found
    assert "state.paired.last paired" in ran("query", "--tables").out


def test_a_state_is_read_where_nothing_runs(ran) -> None:
    sql = 'SELECT id FROM state.paired."last paired" WHERE amount > 100 ORDER BY id'
    assert ran("query", sql, "--json").lines == [{"id": 2}, {"id": 3}]


def test_the_running_process_answers_for_its_states(ran) -> None:
    seen: list[Any] = []

    def ask(query: dict[str, Any]) -> list[dict[str, Any]]:
        with closing(client.ask(socket_path(ran.home), {"version": VERSION, "query": query}, 10)) as answer:
            answer.begin()
            return [row for b in answer.batches() for row in b.to_pylist()]

    def when_idle() -> None:
        path = socket_path(ran.home)
        seen.append(stat.S_IMODE(path.stat().st_mode))
        while "state.paired.last paired" not in {row["table"] for row in ask({"sql": ""})}:
            assert time.monotonic() < deadline
        seen.append(ask({"sql": 'SELECT count(*) AS n FROM state.paired."last paired"'}))
        seen.append({row["table"] for row in ask({"sql": ""})})
        with pytest.raises(Refused) as caught:
            ask({"sql": "SELECT * FROM state.paired.nothing"})
        seen.append(caught.value.code)
        with pytest.raises(Refused) as caught, closing(client.ask(path, {"version": 99}, 10)) as answer:
            answer.begin()
        seen.append(caught.value.code)

    ran.when_idle = when_idle
    deadline = time.monotonic() + 60
    ended = ran("run", "--until-caught-up")
    assert ended.code == 0, ended.out + ended.err
    mode, count, tables, *codes = seen
    assert mode == 0o600
    assert count == [{"n": 3}]
    assert {"state.paired.last paired", "shop.public.orders"} <= tables
    assert codes == ["table_unknown", "request_unknown"]
    assert not Path(socket_path(ran.home)).exists()


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        ((), "write the SELECT"),
        (("SELECT 1", "--limit", "-1"), "--limit 0"),
        (("SELECT * FROM shop.public.order",), "did you mean shop.public.orders?"),
        (("SELECT * FROM read_csv('x')",), "--tables"),
        (("DROP TABLE large.large",), "write one SELECT"),
        (("SELECT nothing FROM large.large",), "--tables"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_cure(ran, arguments: tuple[str, ...], cure: str) -> None:
    said = ran("query", *arguments)
    assert said.code == 2
    assert cure in said.err
