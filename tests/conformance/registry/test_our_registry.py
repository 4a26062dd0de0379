"""What Confluent documents and Apicurio 2.6 has not or answers otherwise; and what we promise: ids, tokens, limits, our own subjects."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from registry_served import OWNED, our_registry

from millstream.errors import Refused, Retryable
from millstream.schemas.rest import server
from millstream.schemas.rest.server import BODY_BYTES_MAX, app, served
from millstream.schemas.sql import SqlRegistry


def record(*fields: dict[str, Any], name: str = "Movie") -> str:
    return json.dumps({"type": "record", "name": name, "namespace": "m", "fields": list(fields)})


A = record({"name": "id", "type": "long"})
B = record({"name": "id", "type": "long"}, {"name": "title", "type": ["null", "string"], "default": None})
C = record({"name": "id", "type": "long"}, {"name": "year", "type": "int"})


class Rest:
    """A client of the API's bare requests."""

    def __init__(self, address: str, registry: SqlRegistry) -> None:
        self.address, self.registry = address, registry
        self.http = httpx2.Client(base_url=address, headers={"content-type": "application/json"})

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The answer of a success."""
        answer = self.http.request(method, path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def code(self, method: str, path: str, body: Any = None, **headers: str) -> int:
        """The code of a refusal, whose status begins it."""
        answer = self.http.request(method, path, json=body, headers=headers)
        code = answer.json()["error_code"]
        assert str(code).startswith(str(answer.status_code)), answer.text
        assert answer.json()["message"]
        assert answer.headers["content-type"] == "application/vnd.schemaregistry.v1+json"
        return int(code)

    def register(self, subject: str, text: str, **more: Any) -> int:
        return int(self("POST", f"/subjects/{subject}/versions", {"schema": text, **more})["id"])


@pytest.fixture
def rest(tmp_path: Path) -> Iterator[Rest]:
    with our_registry(tmp_path) as (address, registry):
        made = Rest(address, registry)
        yield made
        made.http.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Rest]:
    with our_registry(tmp_path, token="s3cret-token") as (address, registry):
        made = Rest(address, registry)
        yield made
        made.http.close()


# ---- documented -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0", "-2", "first", "99999999999", "1.0", "%31x"])
def test_what_cannot_be_a_version(rest: Rest, version: str) -> None:
    rest.register("s", A)
    for method, path in (("GET", ""), ("GET", "/schema"), ("DELETE", "")):
        assert rest.code(method, f"/subjects/s/versions/{version}{path}") == 42202


def test_defaults_and_lists(rest: Rest) -> None:
    assert rest("GET", "/") == {}
    assert rest("GET", "/config") == {"compatibilityLevel": "BACKWARD"}
    assert rest("GET", "/mode") == {"mode": "READWRITE"}
    assert rest("GET", "/schemas/types") == ["AVRO"]
    assert rest("GET", "/contexts") == ["."]
    for subject in ("b", "a", "ab"):
        rest.register(subject, A)
    rest.register("a", B)
    assert rest("GET", "/subjects") == ["a", "ab", "b"]
    assert rest("GET", "/subjects?subjectPrefix=a&offset=1&limit=1") == ["ab"]
    rest("DELETE", "/subjects/b")
    assert rest("GET", "/subjects?deletedOnly=true") == ["b"]
    assert [(v["subject"], v["version"], v["id"]) for v in rest("GET", "/schemas")] == [("a", 1, 1), ("a", 2, 2), ("ab", 1, 1)]
    assert [v["version"] for v in rest("GET", "/schemas?latestOnly=true&subjectPrefix=a")] == [2, 1]
    assert [v["version"] for v in rest("GET", "/schemas?offset=1&limit=1")] == [2]
    rest("DELETE", "/subjects/a/versions/2")
    assert [v["version"] for v in rest("GET", "/schemas?latestOnly=true&subjectPrefix=a")] == [1, 1]
    assert [v["version"] for v in rest("GET", "/schemas?latestOnly=true&subjectPrefix=a&deleted=true")] == [2, 1]
    assert rest("GET", "/subjects?subjectPrefix=%25") == []
    assert rest("GET", "/schemas/ids/1/subjects") == ["a", "ab"]
    assert rest("GET", "/schemas/ids/1/subjects?deleted=true") == ["a", "ab", "b"]
    assert rest("GET", "/schemas/ids/1/versions?subject=ab") == [{"subject": "ab", "version": 1}]
    assert rest("GET", "/schemas/ids/2/schema") == json.loads(B)
    assert rest("GET", "/schemas/ids/1?fetchMaxId=true")["maxId"] == 2


def test_levels(rest: Rest) -> None:
    assert rest.code("GET", "/config/s") == 40408
    assert rest("GET", "/config/s?defaultToGlobal=true") == {"compatibilityLevel": "BACKWARD"}
    assert rest("PUT", "/config/s", {"compatibility": "full"}) == {"compatibility": "FULL"}
    assert rest("GET", "/config/s") == {"compatibilityLevel": "FULL"}
    assert rest("DELETE", "/config/s") == {"compatibilityLevel": "FULL"}
    assert rest.code("DELETE", "/config/s") == 40401
    rest("PUT", "/config", {"compatibility": "NONE"})
    assert rest("DELETE", "/config") == {"compatibilityLevel": "NONE"}
    assert rest("GET", "/config") == {"compatibilityLevel": "BACKWARD"}
    for body in ({"compatibility": "SOMETIMES"}, {}, {"compatibility": None}, {"compatibility": "FULL", "normalize": True}):
        assert rest.code("PUT", "/config/s", body) == 42203


def test_a_check_says_why(rest: Rest) -> None:
    rest.register("s", A)
    for path in ("/compatibility/subjects/s/versions", "/compatibility/subjects/s/versions/latest"):
        answer = rest("POST", f"{path}?verbose=true", {"schema": C})
        assert answer["is_compatible"] is False
        assert "year" in answer["messages"][0]
        assert rest("POST", path, {"schema": C}) == {"is_compatible": False}
        assert rest("POST", f"{path}?verbose=true", {"schema": B}) == {"is_compatible": True, "messages": []}
        assert rest.code("POST", path, {"schema": "{"}) == 42201
    assert rest("POST", "/compatibility/subjects/none/versions", {"schema": C}) == {"is_compatible": True}
    assert rest("POST", "/compatibility/subjects/none/versions/latest", {"schema": C}) == {"is_compatible": True}
    assert rest.code("POST", "/compatibility/subjects/none/versions/1", {"schema": C}) == 40401
    assert rest.code("POST", "/compatibility/subjects/s/versions/3", {"schema": C}) == 40402
    assert rest.code("POST", "/subjects/s/versions", {"schema": C}) == 409


def test_modes(rest: Rest) -> None:
    rest.register("s", A)
    assert rest.code("GET", "/mode/s") == 40409
    rest("PUT", "/mode/s", {"mode": "READONLY"})
    assert rest("GET", "/mode/s?defaultToGlobal=true") == {"mode": "READONLY"}
    assert rest.code("POST", "/subjects/s/versions", {"schema": B}) == 42205
    assert rest.code("DELETE", "/subjects/s") == 42205
    assert rest.code("DELETE", "/subjects/s/versions/1") == 42205
    assert rest.register("s", A) == 1, "what is there is found, whatever the mode"
    rest.register("other", B)
    rest("PUT", "/mode/s", {"mode": "READWRITE"})
    rest("PUT", "/mode", {"mode": "READONLY_OVERRIDE"})
    assert rest.code("POST", "/subjects/s/versions", {"schema": B}) == 42205
    assert rest("GET", "/mode/s") == {"mode": "READWRITE"}
    rest("PUT", "/mode", {"mode": "READWRITE"})
    rest.register("s", B)
    assert rest("DELETE", "/mode/s") == {"mode": "READWRITE"}
    assert rest.code("DELETE", "/mode/s") == 40401
    assert rest.code("PUT", "/mode", {"mode": "SOMETIMES"}) == 42204
    assert rest.code("PUT", "/mode", {}) == 42204


def test_importing(rest: Rest) -> None:
    assert rest.code("POST", "/subjects/s/versions", {"schema": A, "id": 70, "version": 3}) == 42205
    rest.register("other", B)
    assert rest.code("PUT", "/mode", {"mode": "IMPORT"}) == 42205
    rest("PUT", "/mode/s", {"mode": "IMPORT"})
    assert rest.code("POST", "/subjects/s/versions", {"schema": A}) == 42205
    assert rest("POST", "/subjects/s/versions", {"schema": A, "id": 70, "version": 3}) == {"id": 70, "version": 3}
    assert rest("POST", "/subjects/s/versions", {"schema": C, "id": 60, "version": 2}) == {"id": 60, "version": 2}
    assert rest("GET", "/subjects/s/versions") == [2, 3]
    assert rest.code("POST", "/subjects/s/versions", {"schema": '"int"', "id": 70}) == 42205, "an id means one schema for ever"
    assert rest.code("POST", "/subjects/s/versions", {"schema": B, "id": 99}) == 42205, "and a schema has one id"
    assert rest.code("POST", "/subjects/s/versions", {"schema": '"int"', "id": 71, "version": 2}) == 42205
    rest("PUT", "/mode/s", {"mode": "READWRITE"})
    assert rest.register("new", '"bytes"') == 71
    assert rest.code("PUT", "/mode/s", {"mode": "IMPORT"}) == 42205
    rest("PUT", "/mode/s?force=true", {"mode": "IMPORT"})
    assert rest.code("POST", "/subjects/new/versions", {"schema": '"bytes"', "version": 9}) == 42201


def test_references(rest: Rest) -> None:
    rest.register("p", '{"type": "record", "name": "p.Person", "fields": [{"name": "name", "type": "string"}]}')
    text = record({"name": "by", "type": "p.Person"})
    referring = {"schema": text, "references": [{"name": "p.Person", "subject": "p", "version": -1}]}
    number = rest("POST", "/subjects/m/versions", referring)["id"]
    assert rest("GET", f"/schemas/ids/{number}")["references"] == [{"name": "p.Person", "subject": "p", "version": 1}]
    whole = '{"type": "record", "name": "Person", "namespace": "p", "fields": [{"name": "name", "type": "string"}]}'
    spelled_out = {"schema": record({"name": "by", "type": json.loads(whole)})}
    assert rest("POST", "/subjects/m", spelled_out)["id"] == number
    assert rest("POST", "/subjects/m/versions", spelled_out)["id"] == number
    assert rest("GET", "/subjects/p/versions/latest/referencedby") == [number]
    assert rest.code("DELETE", "/subjects/p") == 42206
    assert rest.code("DELETE", "/subjects/p/versions/1") == 42206
    rest("POST", "/compatibility/subjects/m/versions", referring)
    rest("DELETE", "/subjects/m")
    rest("DELETE", "/subjects/p")
    assert rest.code("POST", "/subjects/m/versions", referring) == 42201
    for bad in ([{}], ["x"], [{"name": 1, "subject": "p", "version": 1}], "x", 3):
        assert rest.code("POST", "/subjects/m/versions", {"schema": text, "references": bad}) == 42201


# ---- what is not kept here ------------------------------------------------------------------------------------------


def test_only_avro_is_kept(rest: Rest) -> None:
    for kind in ("JSON", "PROTOBUF", "NOSUCH", 3):
        assert rest.code("POST", "/subjects/s/versions", {"schema": "{}", "schemaType": kind}) == 42201
        assert rest.code("POST", "/subjects/s", {"schema": "{}", "schemaType": kind}) in (42201, 40401)
    assert rest.code("POST", "/subjects/s/versions", {"schema": A, "metadata": {"properties": {"a": "b"}}}) == 42201
    assert rest.code("POST", "/subjects/s/versions", {"schema": A, "ruleSet": {"domainRules": []}}) == 42201
    assert rest.code("POST", "/subjects/:.other:s/versions", {"schema": A}) == 42208
    assert rest("GET", "/subjects") == []


# ---- ids ------------------------------------------------------------------------------------------------------------


def test_an_id_never_changes_meaning(rest: Rest) -> None:
    number = rest.register("s", A)
    rest("DELETE", "/subjects/s")
    assert rest("GET", f"/schemas/ids/{number}")["schema"]
    rest("DELETE", "/subjects/s?permanent=true")
    assert rest.code("GET", f"/schemas/ids/{number}") == 40403
    assert json.loads(rest.registry.by_id(number)) == json.loads(A), "events that were written with it are still read"
    assert rest.register("s", B) == number + 1
    assert rest.register("t", A) == number


def test_one_schema_in_other_words_has_its_id(rest: Rest) -> None:
    number = rest.register("s", A)
    other = json.dumps({"fields": [{"type": {"type": "long"}, "name": "id"}], "name": "m.Movie", "type": "record"}, indent=2)
    assert rest.register("s", other) == number
    assert rest.register("t", other) == number
    assert rest.register("u", other, normalize=True) == number
    assert rest("POST", "/subjects/s", {"schema": other})["version"] == 1
    assert rest.registry.register("mine", other).id == number
    mine = rest.registry.register("mine", '{"type": "map", "values": "long"}').id
    assert rest.register("yours", '{"values":"long","type":"map"}') == mine


def test_a_normal_form_is_kept_where_it_is_asked_for(rest: Rest) -> None:
    rest("POST", "/subjects/s/versions?normalize=true", {"schema": '{"namespace":"m","name":"F","size":1,"type":"fixed"}'})
    assert rest("GET", "/schemas/ids/1")["schema"] == '{"type":"fixed","name":"m.F","size":1}'


def test_many_clients_at_once(rest: Rest) -> None:
    """One schema gets one id, and versions count up without a gap."""
    rest("PUT", "/config", {"compatibility": "NONE"})
    texts = [record(name=f"R{n % 5}") for n in range(60)]
    with ThreadPoolExecutor(12) as pool:
        ids = list(pool.map(lambda job: rest.register(f"s{job[0] % 2}", job[1]), enumerate(texts)))
    assert sorted(set(ids)) == [1, 2, 3, 4, 5]
    assert len({(t, i) for t, i in zip(texts, ids, strict=True)}) == 5
    for subject in ("s0", "s1"):
        numbers = rest("GET", f"/subjects/{subject}/versions")
        assert numbers == list(range(1, len(numbers) + 1))


def test_servers_beside_one_another_on_one_file(rest: Rest, tmp_path: Path) -> None:
    with our_registry(tmp_path) as (address, registry):
        others = Rest(address, registry)
        others("PUT", "/config", {"compatibility": "NONE"})
        texts = [record(name=f"R{n % 7}") for n in range(56)]
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(lambda job: (rest, others)[job[0] % 2].register("s", job[1]), enumerate(texts)))
        others.http.close()
    assert len(set(zip(texts, ids, strict=True))) == 7
    assert rest("GET", "/subjects/s/versions") == [1, 2, 3, 4, 5, 6, 7]


# ---- whose subjects they are ----------------------------------------------------------------------------------------


def test_what_millstream_writes_is_shown_and_never_changed(rest: Rest) -> None:
    mine = rest.registry.register(OWNED, A)
    assert rest("GET", f"/subjects/{OWNED}/versions/latest")["id"] == mine.id
    assert rest.register(OWNED, A) == mine.id
    assert rest("POST", f"/compatibility/subjects/{OWNED}/versions/latest", {"schema": C}) == {"is_compatible": False}
    for method, path, body in (
        ("POST", f"/subjects/{OWNED}/versions", {"schema": B}),
        ("DELETE", f"/subjects/{OWNED}/versions/1", None),
        ("DELETE", f"/subjects/{OWNED}", None),
        ("DELETE", f"/subjects/{OWNED}?permanent=true", None),
    ):
        assert rest.code(method, path, body) == 42205
    assert rest.registry.register(OWNED, C).version == 2, "no level holds for what connectors register"
    assert rest.registry.versions(OWNED)[0] == mine


# ---- who may --------------------------------------------------------------------------------------------------------


def test_the_token_is_for_what_destroys_or_changes_rules(guarded: Rest) -> None:
    guarded.register("s", A)
    protected = (
        ("DELETE", "/subjects/s/versions/1", None),
        ("DELETE", "/subjects/s", None),
        ("PUT", "/mode", {"mode": "READONLY"}),
        ("PUT", "/mode/s", {"mode": "READONLY"}),
        ("DELETE", "/mode/s", None),
        ("PUT", "/config", {"compatibility": "NONE"}),
        ("PUT", "/config/s", {"compatibility": "NONE"}),
        ("DELETE", "/config", None),
        ("DELETE", "/config/s", None),
    )
    wrong = (
        "",
        "Bearer",
        "Bearer s3cret-toke",
        "Bearer s3cret-tokens",
        "Basic !",
        "Basic czNjcmV0LXRva2Vu",
        "Digest s3cret-token",
    )
    for method, path, body in protected:
        for header in wrong:
            assert guarded.code(method, path, body, authorization=header) == 40101
    assert guarded("GET", "/subjects/s/versions") == [1]
    assert guarded("GET", "/config") == {"compatibilityLevel": "BACKWARD"}
    guarded("PUT", "/config", {"compatibility": "NONE"}, authorization="bearer s3cret-token")
    with httpx2.Client(base_url=guarded.address, auth=("anyone", "s3cret-token")) as basic:
        assert basic.delete("/subjects/s").json() == [1]


# ---- what a request may not be --------------------------------------------------------------------------------------


def test_odd_subjects(rest: Rest) -> None:
    for name in ("a%2Fb", "a%20b", "%C3%A9%E2%82%AC", "a.b:c", "..%2F..", "versions"):
        rest.register(name, A)
        assert rest("GET", f"/subjects/{name}/versions") == [1]
    assert "a/b" in rest("GET", "/subjects")
    for name in ("a%00b", "a%0Ab", "x" * 600):
        assert rest.code("POST", f"/subjects/{name}/versions", {"schema": A}) == 42208


def test_what_is_no_request(rest: Rest) -> None:
    assert rest.code("GET", "/nope") == 404
    assert rest.code("GET", "/subjects/s/versions/1/nope") == 404
    assert rest.code("PUT", "/subjects") == 405
    assert rest.code("GET", "/schemas/ids/first") == 404
    assert rest.code("GET", "/subjects?limit=x") == 400
    for body in (b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000):
        answer = rest.http.post("/subjects/s/versions", content=body)
        assert (answer.status_code, answer.json()["error_code"]) == (400, 400)
    for text in (None, "", "  ", 3, {}, []):
        assert rest.code("POST", "/subjects/s/versions", {"schema": text}) == 42201
    for number in ("x", 1 << 40, True, 1.5):
        assert rest.code("POST", "/subjects/s/versions", {"schema": A, "id": number}) == 42201
        assert rest.code("POST", "/subjects/s/versions", {"schema": A, "version": number}) == 42202


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_what_a_web_page_can_send_unasked(rest: Rest, kind: str) -> None:
    assert rest.code("POST", "/subjects/s/versions", {"schema": A}, **{"content-type": kind}) == 415
    assert rest("GET", "/subjects") == []


def test_names_that_are_not_this_machines(rest: Rest, guarded: Rest) -> None:
    for host in ("pages.example", "pages.example:8081", "127.0.0.1.pages.example", "10.0.0.1:80"):
        assert rest.code("GET", "/subjects", host=host) == 403
        assert guarded("GET", "/subjects", host=host) == []
    for host in ("localhost", "localhost:8081", "127.0.0.1", "[::1]", "[::1]:8081"):
        assert rest("GET", "/subjects", host=host) == []


def test_a_request_that_is_too_large(rest: Rest) -> None:
    answer = rest.http.post("/subjects/s/versions", content=b" " * (BODY_BYTES_MAX + 1))
    assert (answer.status_code, answer.json()["error_code"]) == (422, 42209)
    rest.register("s", A)


def test_a_schema_that_is_nested_beyond_reason(rest: Rest) -> None:
    deep = '{"type":"array","items":' * 20_000 + '"int"' + "}" * 20_000
    assert rest.code("POST", "/subjects/s/versions", {"schema": deep}) == 42201


@pytest.mark.parametrize("said", [b"", b"GET /subjects HTTP/1.1\r\nhost:", b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\nGET /"])
def test_who_says_half_a_request_is_not_waited_for(rest: Rest, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN_S", 0.2)
    host, port = rest.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(said)
        heard = b""
        while piece := slow.recv(1000):  # until it is closed
            heard += piece
    assert heard.startswith(b"HTTP/1.1 200") if b"\r\n\r\n" in said else heard == b""


def test_a_body_that_does_not_come_is_not_waited_for(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_WITHIN_S", 0.2)
    monkeypatch.setattr(server, "HEAD_WITHIN_S", 0.2)
    host, port = rest.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(b"POST /subjects/s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{")
        heard = b""
        while piece := slow.recv(1000):
            heard += piece
    assert heard.startswith(b"HTTP/1.1 500")
    assert b'"error_code": 50002' in heard


def test_a_head_without_end_is_cut_off(rest: Rest) -> None:
    host, port = rest.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as endless:
        heard = b""
        endless.sendall(b"GET / HTTP/1.1\r\n")
        with suppress(ConnectionError):
            for _ in range(200):
                endless.sendall(b"x-much: " + b"x" * 10_000 + b"\r\n")
        with suppress(ConnectionError):
            heard = endless.recv(1000)
    assert heard == b"" or heard.startswith(b"HTTP/1.1 400")


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def answer(self, *given: Any, **more: Any) -> Any:
        raise self.error


def test_a_database_that_does_not_answer() -> None:
    down = Retryable("no answer from postgresql://reader:hunter2@db", code="registry_down", where="registry", cure="start it")
    with served(app(Failing(down), None), "127.0.0.1:0") as address:  # type: ignore[arg-type]
        answer = httpx2.get(f"{address}/subjects")
    assert (answer.status_code, answer.json()["error_code"]) == (500, 50001)
    assert "hunter2" not in answer.text


def test_a_defect_of_ours_says_nothing_of_the_inside() -> None:
    with served(app(Failing(ValueError("inside")), None), "127.0.0.1:0") as address:  # type: ignore[arg-type]
        answer = httpx2.get(f"{address}/subjects")
    assert (answer.status_code, answer.json()["error_code"]) == (500, 50001)
    assert "inside" not in answer.text


def test_an_address_that_is_taken() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(Refused) as caught, served(app(Failing(ValueError()), None), f"127.0.0.1:{holder.getsockname()[1]}"):  # type: ignore[arg-type]
            raise AssertionError
    assert caught.value.code == "address_in_use"
