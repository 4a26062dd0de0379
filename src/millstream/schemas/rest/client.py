"""Another registry as ours: `Registry` over HTTP, at the one host that the project names.

While it does not answer, ids and schemas that are known here go on; what is not known waits.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections import OrderedDict
from typing import Any
from urllib.parse import quote

import httpx2

from millstream.errors import Irrecoverable, MillstreamError, Retryable, without_secrets
from millstream.schemas.options import Options
from millstream.schemas.registry import Reference, SchemaVersion
from millstream.schemas.texts import Texts

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
ANSWER_BYTES_MAX = 32 << 20
_KNOWN_MAX = 10_000
_SUBJECT_UNKNOWN, _SCHEMA_UNKNOWN = 40401, 40403


class HttpRegistry:
    """`Registry` of a Confluent Schema Registry, or of what has its API. Safe for several threads.

    Raises Retryable("registry_down") where it does not answer, Irrecoverable("registry_denied") where it wants another user,
    ("schema_refused") where it does not take a schema, ("registry_unusable") where its answer is none.
    """

    def __init__(self, options: Options, *, transport: httpx2.BaseTransport | None = None) -> None:
        assert options.url is not None
        self._where = f"registry {options.url}"
        secrets = [s.get_secret_value() for s in (options.token, options.password) if s is not None]
        self._secrets = secrets
        headers = {"Accept": CONTENT_TYPE, "Content-Type": CONTENT_TYPE, "User-Agent": "millstream"}
        if options.token is not None:
            headers["Authorization"] = f"Bearer {options.token.get_secret_value()}"
        self._client = httpx2.Client(
            base_url=options.url,
            headers=headers,
            auth=(options.user, options.password.get_secret_value()) if options.user and options.password else None,
            timeout=options.timeout_s,
            verify=ssl.create_default_context(cafile=options.ca),
            # No proxy, no netrc, no other host: what the project names is what is asked.
            trust_env=False,
            follow_redirects=False,
            transport=transport,
        )
        self._texts = Texts()
        self._known: OrderedDict[tuple[str, str | int], SchemaVersion] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        self._client.close()

    def register(self, subject: str, text: str) -> SchemaVersion:
        """The version with this text: the existing one, or the next."""
        known = self._recalled(subject, text)
        if known is not None:
            return known
        path, body = f"/subjects/{quote(subject, safe='')}", {"schema": text}
        found = self._asked("POST", path, body, absent=(_SUBJECT_UNKNOWN, _SCHEMA_UNKNOWN))
        if found is None:
            self._asked("POST", f"{path}/versions", body)
            found = self._asked("POST", path, body)
        made = SchemaVersion(subject, self._number(found, "version"), self._number(found, "id"), text)
        self._remember(subject, text, made)
        self._texts.keep(made.id, text)
        return made

    def by_id(self, schema_id: int) -> str:
        """The schema's text, from memory after the first time. Raises Retryable("schema_unknown")."""
        text = self._texts.get(schema_id)
        if text is None:
            found = self._asked("GET", f"/schemas/ids/{schema_id}", absent=(_SCHEMA_UNKNOWN,))
            if found is None:
                raise Retryable(
                    f"no schema has the id {schema_id}",
                    code="schema_unknown",
                    where=self._where,
                    cure="it is looked up again; if it stays unknown, this is not the registry that the topic was written with",
                )
            text = self._avro(found, f"the schema {schema_id}")
            if found.get("references"):
                cure = "register it with the types that it uses written out"
                raise self._unusable(f"the schema {schema_id} refers to others, which is not read here", cure)
            self._texts.keep(schema_id, text)
        return text

    def versions(self, subject: str) -> list[SchemaVersion]:
        """Oldest first; empty for an unknown subject."""
        numbers = self._asked("GET", f"/subjects/{quote(subject, safe='')}/versions", absent=(_SUBJECT_UNKNOWN,))
        return [self._version(subject, int(number)) for number in sorted(self._list(numbers))]

    def subjects(self) -> list[str]:
        """Every subject, by name."""
        return sorted(map(str, self._list(self._asked("GET", "/subjects"))))

    def _version(self, subject: str, number: int) -> SchemaVersion:
        known = self._recalled(subject, number)
        if known is not None:
            return known
        found = self._asked("GET", f"/subjects/{quote(subject, safe='')}/versions/{number}")
        references = tuple(Reference(r["name"], r["subject"], r["version"]) for r in found.get("references") or ())
        made = SchemaVersion(subject, number, self._number(found, "id"), self._avro(found, f"{subject} {number}"), references)
        self._remember(subject, number, made)
        return made

    # ---- what is known ----------------------------------------------------------------------------------------------
    def _recalled(self, subject: str, what: str | int) -> SchemaVersion | None:
        with self._lock:
            return self._known.get((subject, what))

    def _remember(self, subject: str, what: str | int, version: SchemaVersion) -> None:
        with self._lock:
            self._known[subject, what] = version
            while len(self._known) > _KNOWN_MAX:  # Invariant 8
                self._known.popitem(last=False)

    # ---- asking ------------------------------------------------------------------------------------------------------
    def _asked(self, method: str, path: str, body: Any = None, absent: tuple[int, ...] = ()) -> Any:
        """The answer as JSON; None where its error is one of `absent`."""
        content = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
        try:
            with self._client.stream(method, path, content=content) as response:
                told = b""
                for piece in response.iter_bytes():
                    told += piece
                    if len(told) > ANSWER_BYTES_MAX:
                        raise self._unusable(f"its answer to {method} {path} is too large")
        except httpx2.HTTPError as error:
            raise self._down(self._blot(str(error) or type(error).__name__)) from None
        status = response.status_code
        try:
            document = json.loads(told)
        except ValueError:
            document = None
        if 200 <= status < 300:
            if document is None:
                raise self._unusable(f"its answer to {method} {path} is no JSON")
            return document
        code, message = self._error(document, status)
        if code in absent:
            return None
        raise self._refusal(status, message, f"{method} {path}")

    def _refusal(self, status: int, message: str, what: str) -> MillstreamError:
        said = f"{what}: {status} {message}".strip()
        if status in (401, 403):
            cure = "give registry: a user and password, or a token, that may read and register"
            return Irrecoverable(said, code="registry_denied", where=self._where, cure=cure)
        if status in (409, 422):
            cure = "Millstream registers what its sources say: set the subject's compatibility level to NONE, or its mode to READWRITE"
            return Irrecoverable(said, code="schema_refused", where=self._where, cure=cure)
        if status in (408, 425, 429) or status >= 500:
            return self._down(said)
        return self._unusable(said)

    @staticmethod
    def _list(answer: Any) -> list[Any]:
        return answer if isinstance(answer, list) else []

    def _error(self, document: Any, status: int) -> tuple[int, str]:
        if isinstance(document, dict) and isinstance(document.get("error_code"), int):
            return document["error_code"], self._blot(str(document.get("message", "")))[:500]
        return status, ""

    def _number(self, answer: Any, name: str) -> int:
        if not isinstance(answer, dict) or type(answer.get(name)) is not int:
            raise self._unusable(f"its answer has no {name}")
        return int(answer[name])

    def _avro(self, answer: Any, what: str) -> str:
        if not isinstance(answer, dict) or not isinstance(answer.get("schema"), str):
            raise self._unusable(f"its answer has no schema for {what}")
        if answer.get("schemaType", "AVRO") != "AVRO":
            raise self._unusable(f"{what} is {answer['schemaType']}, and only AVRO is read")
        return str(answer["schema"])

    def _down(self, why: str) -> Retryable:
        cure = "it is asked again; what is known already goes on meanwhile"
        return Retryable(why, code="registry_down", where=self._where, cure=cure)

    def _unusable(self, why: str, cure: str = "check that url is a registry's base, with its path") -> Irrecoverable:
        return Irrecoverable(why, code="registry_unusable", where=self._where, cure=cure)

    def _blot(self, text: str) -> str:
        return without_secrets(text, self._secrets)
