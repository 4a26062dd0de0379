"""What `registry:` in mesh.yaml may say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from millstream.schemas.options import Options, is_loopback


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"listen": "127.0.0.1:8081"},
        {"listen": "localhost:0"},
        {"listen": "[::1]:8081"},
        {"listen": "0.0.0.0:8081", "token": "t"},
        {"token": "t"},
        {"url": "http://host"},
        {"url": "https://host:8081/apis/ccompat/v7/", "token": "t"},
        {"url": "http://127.0.0.1:8081", "token": "t"},
        {"url": "http://[::1]:8081", "user": "u", "password": "p"},
        {"url": "http://localhost", "token": "t"},
        {"url": "https://host", "user": "u", "password": "p", "ca": "ca.pem", "timeout_s": 2},
    ],
)
def test_what_it_may_be(given: dict[str, Any]) -> None:
    Options.model_validate(given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"listen": "0.0.0.0:8081"}, "token"),
        ({"listen": "registry.example:8081"}, "token"),
        ({"listen": "8081"}, "host:port"),
        ({"listen": "127.0.0.1:"}, "host:port"),
        ({"listen": "127.0.0.1:99999"}, "host:port"),
        ({"listen": "127.0.0.1:8081", "url": "http://host"}, "not both"),
        ({"url": "ftp://host"}, "http://"),
        ({"url": "host:8081"}, "http://"),
        ({"url": "http://"}, "http://"),
        ({"url": "http://host/?x=1"}, "http://"),
        ({"url": "http://u:hunter2@host"}, "options of their own"),
        ({"user": "u", "password": "p"}, "no url"),
        ({"url": "https://host", "user": "u"}, "user and password"),
        ({"url": "https://host", "password": "hunter2"}, "user and password"),
        ({"url": "https://host", "user": "u", "password": "hunter2", "token": "t"}, "or token"),
        ({"url": "http://host", "user": "u", "password": "hunter2"}, "write https://"),
        ({"url": "http://10.0.0.1:8081", "token": "hunter2"}, "write https://"),
        ({"url": "http://localhost.example", "token": "hunter2"}, "write https://"),
        ({"ca": "x"}, "no url"),
        ({"url": "http://host:99999"}, "ort"),
        ({"url": "http://host:0"}, "a port is"),
        ({"url": "http://host", "token": "hunter2\n"}, "visible"),
        ({"token": "hunter2ä"}, "visible"),
        ({"url": "http://host", "timeout_s": 0}, "greater than 0"),
        ({"nosuch": 1}, "Extra"),
    ],
)
def test_what_it_may_not_be(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Options.model_validate(given)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_what_is_this_machine() -> None:
    assert [is_loopback(at) for at in ("127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1")] == [True] * 4
    assert [is_loopback(at) for at in ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example:1")] == [False] * 4
