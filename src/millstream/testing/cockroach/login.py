"""Proving a password to the stand-in: in clear, or by SCRAM-SHA-256 as a server does it. What a user may do afterwards is not asked here.

Reference: RFC 5802 and RFC 7677; PostgreSQL 17, "SASL Authentication". No channel binding: the stand-in has no TLS.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

ITERATIONS = 4096


class Refused(Exception):
    """The password, or the proof of it, is not right."""


class Scram:
    """One login: `first(client-first-message)` gives the server's challenge, `final(client-final-message)` its own proof.

    Both raise Refused, a wrong password only in `final`, as a server does that does not tell who exists.
    """

    def __init__(self, password: str, *, salt: bytes | None = None, nonce: str | None = None) -> None:
        self._password = password.encode()
        self._salt = salt or secrets.token_bytes(16)
        self._nonce = nonce or secrets.token_urlsafe(18)
        self._said = ""

    def first(self, message: bytes) -> bytes:
        text = message.decode()
        if not text.startswith(("n,,", "y,,")):
            raise Refused("channel binding is not supported")
        bare = text[3:]
        client = _attributes(bare).get("r", "")
        if not client:
            raise Refused("no nonce")
        self._nonce = client + self._nonce
        challenge = f"r={self._nonce},s={base64.b64encode(self._salt).decode()},i={ITERATIONS}"
        self._said = f"{bare},{challenge}"
        return challenge.encode()

    def final(self, message: bytes) -> bytes:
        text = message.decode()
        without_proof, _, proof = text.rpartition(",p=")
        if _attributes(without_proof).get("r") != self._nonce:
            raise Refused("another nonce")
        salted = hashlib.pbkdf2_hmac("sha256", self._password, self._salt, ITERATIONS)
        said = f"{self._said},{without_proof}".encode()
        client_key = _hmac(salted, b"Client Key")
        expected = _xor(client_key, _hmac(hashlib.sha256(client_key).digest(), said))
        if not hmac.compare_digest(base64.b64decode(proof), expected):
            raise Refused("wrong password")
        return b"v=" + base64.b64encode(_hmac(_hmac(salted, b"Server Key"), said))


def _attributes(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (part.partition("=") for part in text.split(","))}


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).digest()


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))
