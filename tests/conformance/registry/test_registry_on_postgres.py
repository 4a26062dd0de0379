"""The registry's tables in a real PostgreSQL: the same ids, whoever registers at once, through the API and beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import sqlalchemy as sa
from registry_served import served_over

from millstream.errors import Retryable
from millstream.schemas.sql import SqlRegistry
from millstream.testing.postgres_server import PostgresServer

pytestmark = pytest.mark.servers

TEXTS = [json.dumps({"type": "record", "name": f"R{n}", "fields": [{"name": "x", "type": "long"}]}) for n in range(12)]


@pytest.fixture
def engine(postgres: PostgresServer, database: str) -> Iterator[sa.Engine]:
    url = sa.make_url(postgres.url(database)).set(drivername="postgresql+psycopg")
    made = sa.create_engine(url, pool_size=10)
    yield made
    made.dispose()


def test_whoever_registers_at_once(engine: sa.Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        registries = list(pool.map(SqlRegistry, [engine] * 8))  # each makes the tables, if another has not
        found = list(pool.map(lambda n: registries[n % 8].register(f"s{n % 3}", TEXTS[n % 12]), range(120)))
    assert {v.id for v in found} == set(range(1, 13))
    assert len({(v.id, v.text) for v in found}) == 12
    for subject in ("s0", "s1", "s2"):
        versions = registries[0].versions(subject)
        assert [v.version for v in versions] == list(range(1, len(versions) + 1))
    assert registries[1].by_id(3) == registries[2].by_id(3)
    with pytest.raises(Retryable):
        registries[0].by_id(99)


def test_the_api_over_it(engine: sa.Engine) -> None:
    with served_over(engine) as (address, registry), httpx2.Client(base_url=address) as http:
        mine = registry.register("mine", TEXTS[0])
        assert http.put("/config", json={"compatibility": "NONE"}).status_code == 200
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda n: http.post(f"/subjects/s{n % 2}/versions", json={"schema": TEXTS[n % 6]}), range(36)))
        assert {a.status_code for a in answers} == {200}
        assert http.post("/subjects/s0", json={"schema": TEXTS[0]}).json()["id"] == mine.id
        assert http.get("/subjects").json() == ["mine", "s0", "s1"]
        assert http.delete("/subjects/s0").status_code == 200
        assert http.delete("/subjects/s0?permanent=true").status_code == 200
        assert http.get("/subjects").json() == ["mine", "s1"]
        assert http.put("/mode/new", json={"mode": "IMPORT"}).status_code == 200
        assert http.post("/subjects/new/versions", json={"schema": '"int"', "id": 50}).json() == {"id": 50, "version": 1}
        assert http.post("/subjects/s1/versions", json={"schema": '"long"'}).json()["id"] == 51


def test_a_server_that_is_gone(engine: sa.Engine) -> None:
    unreachable = sa.create_engine(engine.url.set(port=1))
    with pytest.raises(Retryable) as caught:
        SqlRegistry(unreachable)
    assert caught.value.code == "registry_down"
    assert str(engine.url.password) not in str(caught.value)
    unreachable.dispose()
