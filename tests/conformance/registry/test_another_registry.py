"""`Registry` over HTTP: the promises of our own, towards our own served and a real Apicurio; and what happens when it is away or odd."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr
from registry_served import our_registry

from millstream.errors import Irrecoverable, MillstreamError, Retryable
from millstream.events import envelope
from millstream.events.types import Field, RowSchema, Type
from millstream.schemas.options import Options
from millstream.schemas.rest import client as http_client
from millstream.schemas.rest.client import HttpRegistry

A = '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "long"}]}'
B = '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "long"}, {"name": "y", "type": ["null", "int"], "default": null}]}'


@pytest.fixture
def registry(address: str) -> Iterator[HttpRegistry]:
    with closing(HttpRegistry(Options(url=address))) as opened:
        yield opened


def test_versions_and_ids(registry: HttpRegistry, address: str, subject: str) -> None:
    assert registry.versions(subject) == []
    first = registry.register(subject, A)
    second = registry.register(subject, B)
    assert (first.version, second.version) == (1, 2)
    assert registry.register(subject, A) == first
    with closing(HttpRegistry(Options(url=f"{address}/"))) as other:
        assert other.register(subject, B).id == second.id
        assert other.register(f"{subject}-too", A).id == first.id
        assert {subject, f"{subject}-too"} <= set(other.subjects())
        assert [(v.version, v.id) for v in other.versions(subject)] == [(1, first.id), (2, second.id)]
        assert json.loads(other.by_id(first.id)) == json.loads(A)
    with pytest.raises(Retryable) as caught:
        registry.by_id(2_000_000_000)
    assert caught.value.code == "schema_unknown"


def test_our_envelopes_come_back_as_they_were_meant(registry: HttpRegistry, address: str, subject: str) -> None:
    rows = RowSchema((Field("id", Type("int64"), 1), Field("price", Type("decimal", 10, 2), 7), Field("note", Type("text"), 9)), ("id",))
    text = envelope.value_schema("shop.public.orders", rows)
    made = registry.register(subject, text)
    with closing(HttpRegistry(Options(url=address))) as other:
        assert envelope.row_schema(other.by_id(made.id), ("id",)) == rows


def test_a_subject_with_a_slash(registry: HttpRegistry) -> None:
    assert registry.register("a/b c-value", A).version == 1
    assert [v.version for v in registry.versions("a/b c-value")] == [1]


# ---- away, closed, odd ------------------------------------------------------------------------------------------------


def test_what_is_known_goes_on_while_it_is_away(tmp_path: Path) -> None:
    with our_registry(tmp_path) as (address, _):
        known = HttpRegistry(Options(url=address, timeout_s=2))
        first = known.register("s", A)
        known.versions("s")
    assert known.register("s", A) == first
    assert known.by_id(first.id) == A
    for ask in (lambda: known.register("s", B), lambda: known.by_id(2), lambda: known.versions("s"), known.subjects):
        with pytest.raises(Retryable) as caught:
            ask()
        assert caught.value.code == "registry_down"
        assert caught.value.cure
    known.close()


Answer = Callable[[httpx2.Request], httpx2.Response]
SECRET = "hunter2-and-more"


def asked(answer: Answer, **more: Any) -> HttpRegistry:
    return HttpRegistry(Options(url="https://registry.example/base", **more), transport=httpx2.MockTransport(answer))


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (401, Irrecoverable, "registry_denied"),
        (403, Irrecoverable, "registry_denied"),
        (404, Irrecoverable, "registry_unusable"),
        (409, Irrecoverable, "schema_refused"),
        (422, Irrecoverable, "schema_refused"),
        (302, Irrecoverable, "registry_unusable"),
        (429, Retryable, "registry_down"),
        (500, Retryable, "registry_down"),
        (503, Retryable, "registry_down"),
    ],
)
def test_what_its_refusals_mean(status: int, kind: type[MillstreamError], code: str) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.host == "registry.example", "no redirect is followed"
        headers = {"location": "http://elsewhere.example/"}
        return httpx2.Response(status, json={"error_code": status, "message": f"no, {SECRET}"}, headers=headers)

    with closing(asked(answer, user="mill", password=SecretStr(SECRET))) as registry:
        for ask in (lambda: registry.register("s", A), lambda: registry.by_id(1), lambda: registry.versions("s"), registry.subjects):
            with pytest.raises(kind) as caught:
                ask()
            assert caught.value.code == code
            assert caught.value.cure
            assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"id": "x"}',
        b"[]",
        b'{"schema": 3}',
        b'{"schema": "{}", "schemaType": "JSON"}',
        b'{"schema": "{}", "references": [{}]}',
    ],
)
def test_what_is_no_answer(body: bytes) -> None:
    with closing(asked(lambda request: httpx2.Response(200, content=body))) as registry:
        with pytest.raises(Irrecoverable) as caught:
            registry.by_id(1)
        assert caught.value.code == "registry_unusable"


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "ANSWER_BYTES_MAX", 1000)
    with closing(asked(lambda request: httpx2.Response(200, content=(b"x" * 300 for _ in range(100))))) as registry:
        with pytest.raises(Irrecoverable) as caught:
            registry.by_id(1)
        assert "too large" in caught.value.message


def test_who_asks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, to that host, whatever the environment says of proxies."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:1")
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json=[])

    with closing(asked(answer, token=SecretStr("t0ken"))) as registry:
        registry.subjects()
    with closing(asked(answer, user="mill", password=SecretStr("pässword"))) as registry:
        registry.subjects()
    assert [r.headers["authorization"] for r in seen] == ["Bearer t0ken", "Basic bWlsbDpww6Rzc3dvcmQ="]
    assert {str(r.url) for r in seen} == {"https://registry.example/base/subjects"}
    assert seen[0].headers["accept"] == "application/vnd.schemaregistry.v1+json"
