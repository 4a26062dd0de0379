"""Serves the REST API over HTTP: bytes in, bytes out, with a bound on everything that a client can hold. An ASGI application on uvicorn.

Another application may mount `app`. Who may ask what stands in `endpoints.py`; here it is only found out who asks.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import logging
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from millstream.errors import MillstreamError, Refused, without_secrets
from millstream.schemas.options import is_loopback
from millstream.schemas.rest.endpoints import Api
from millstream.schemas.rest.faults import CODES, fault, status

log = logging.getLogger("millstream.registry")

CONTENT_TYPE = b"application/vnd.schemaregistry.v1+json"
CONTENT_TYPES = (CONTENT_TYPE, b"application/vnd.schemaregistry+json", b"application/json", b"application/octet-stream")
BODY_BYTES_MAX = 4 << 20
HEAD_WITHIN_S = 10.0
BODY_WITHIN_S = 30.0
ANSWERED_WITHIN_S = 30.0
AT_ONCE = 64
_IDLE_S = 5
_STOPPED_WITHIN_S = 10.0

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
App = Callable[[Mapping[str, Any], Receive, Send], Awaitable[None]]


def app(api: Api, token: str | None) -> App:
    """The ASGI application."""

    async def serve(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        code, document = 200, None
        try:
            document = await _answered(api, token, scope, receive)
        except MillstreamError as error:
            code, document = _refusal(error)
        except TimeoutError:
            code, document = _refusal(fault("50002", "the request took too long"))
        except Exception:  # a defect of ours: who asked is told, and the process runs on
            log.exception("a request failed")
            code, document = 500, {"error_code": 50001, "message": "a fault of this registry; its log says more"}
        body = json.dumps(document, ensure_ascii=False).encode()
        headers = [(b"content-type", CONTENT_TYPE), (b"content-length", str(len(body)).encode())]
        if code == 401:
            headers.append((b"www-authenticate", b'Basic realm="registry", Bearer realm="registry"'))
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return serve


async def _answered(api: Api, token: str | None, scope: Mapping[str, Any], receive: Receive) -> Any:
    headers = dict(scope["headers"])
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    _not_from_a_page(headers, token, has_body=method in ("POST", "PUT"))
    body = await asyncio.wait_for(_body(receive), BODY_WITHIN_S)
    trusted = token is None or _shows(token, headers.get(b"authorization", b""))
    path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
    query = scope["query_string"].decode("latin-1")
    work = asyncio.to_thread(api.answer, method, path.removeprefix(scope.get("root_path", "")), query, body, trusted=trusted)
    return await asyncio.wait_for(work, ANSWERED_WITHIN_S)


def _not_from_a_page(headers: Mapping[bytes, bytes], token: str | None, *, has_body: bool) -> None:
    """A page in a browser on this machine can send what it likes to a loopback address, but not with a body of JSON without asking
    first, and not under the address's own name."""
    if has_body and headers.get(b"content-type", b"").partition(b";")[0].strip().lower() not in CONTENT_TYPES:
        raise fault("415", "HTTP 415 Unsupported Media Type", f"send the content type {CONTENT_TYPE.decode()}, or application/json")
    host = headers.get(b"host", b"").decode("latin-1")
    if token is None and host and not is_loopback(host if re.search(r":\d+$", host) else f"{host}:80"):
        raise fault("403", "this registry has no token, and answers to this machine's own names only", "set `token` in mesh.yaml")


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > BODY_BYTES_MAX:
            raise fault("42209", f"the request has more than {BODY_BYTES_MAX:,} bytes")
        if not message.get("more_body"):
            return body


def _shows(token: str, header: bytes) -> bool:
    """Whether the header is `Bearer TOKEN`, or basic authentication with the token as the password of whatever user."""
    kind, _, given = header.partition(b" ")
    if kind.lower() == b"basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif kind.lower() != b"bearer":
        return False
    return hmac.compare_digest(given.strip(), token.encode())


def _refusal(error: MillstreamError) -> tuple[int, dict[str, Any]]:
    code = error.code if error.code in CODES else "50001"
    if not isinstance(error, Refused):
        log.warning("a request was not answered: %s", error)
    message = f"{error.message}: {error.cure}" if error.cure else error.message
    return status(code), {"error_code": int(code), "message": without_secrets(message)}


@contextmanager
def served(application: App, listen: str) -> Iterator[str]:
    """Answer at `listen` (host:port; port 0: a free one) while this lasts; gives the address. A request under way is finished.

    Raises Refused("address_in_use") where nobody can listen there.
    """
    import uvicorn

    from millstream.schemas.rest.connections import Connection

    bound = _bound(listen)
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        http=Connection,
        loop="asyncio",
        limit_concurrency=AT_ONCE,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_IDLE_S,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([bound],), name="registry", daemon=True)
    thread.start()
    try:
        host, port = bound.getsockname()[:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(_STOPPED_WITHIN_S)
        bound.close()


def _bound(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(AT_ONCE)  # from now on whoever asks is kept waiting, not turned away
        except BaseException:
            made.close()
            raise
    except OSError as error:
        cure = "stop what listens there, or give the registry another address"
        raise Refused(f"nothing can listen at {listen}: {error.strerror}", code="address_in_use", where="registry", cure=cure) from None
    return made
