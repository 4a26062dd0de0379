"""Owners are told by a real HTTP server and a real mail server; what fails is tried again, a few times, and stops nobody."""

from __future__ import annotations

import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from millstream.notices.options import Options
from millstream.notices.teller import TRIES, WAITING_MAX, Notice, Teller

NOTICE = Notice("shop", "pipeline.rated", "team-rated", "paused", "shop.movie@7: dropped year: step rated uses it", "edit it", "now")


class Hook(BaseHTTPRequestHandler):
    """Answers with the next of `server.answers`, then with 204; keeps what it is given."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((self.path, dict(self.headers), json.loads(body)))
        status, headers = self.server.answers.pop(0) if self.server.answers else (204, {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Nothing is printed."""


class Mail(socketserver.StreamRequestHandler):
    """As much of RFC 5321 as it takes to be given a message."""

    server: Any

    def handle(self) -> None:
        self._say("220 mail")
        while line := self.rfile.readline().decode().strip():
            verb = line.split(":")[0].upper()
            if verb == "DATA":
                self._say("354 go on")
                lines = []
                while (text := self.rfile.readline().decode()) != ".\r\n":
                    lines.append(text)
                self.server.taken.append("".join(lines))
            if verb in ("RCPT TO",) and self.server.refuses:
                self._say("451 later")
                continue
            self._say("221 bye" if verb == "QUIT" else "250 ok")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@contextmanager
def serving(server: Any) -> Iterator[Any]:
    server.taken, server.answers, server.refuses = [], [], False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hook() -> Iterator[Any]:
    with serving(HTTPServer(("127.0.0.1", 0), Hook)) as server:
        yield server


@pytest.fixture
def mail() -> Iterator[Any]:
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail)) as server:
        yield server


def to_hook(hook: Any, **more: Any) -> Options:
    url = f"http://127.0.0.1:{hook.server_port}/told?by=mesh"
    return Options(webhook=url, webhook_hosts=["127.0.0.1"], **more)


def to_mail(mail: Any, **more: Any) -> Options:
    return Options(smtp=f"127.0.0.1:{mail.server_address[1]}", smtp_tls="none", mail_from="mesh@example.com", **more)


def test_a_webhook_is_given_all_of_it(hook: Any) -> None:
    with Teller(to_hook(hook, webhook_token="t0ken")) as teller:
        teller.tell(NOTICE)
    ((path, headers, body),) = hook.taken
    assert path == "/told?by=mesh" and headers["Authorization"] == "Bearer t0ken"
    assert body == vars(NOTICE)


def test_what_fails_is_tried_again_and_then_given_up(hook: Any, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = {"Location": "http://localhost/"}
    hook.answers = [(503, {}), (302, elsewhere)] + [(500, {})] * TRIES
    with Teller(to_hook(hook), first_wait_s=0.01) as teller, caplog.at_level(logging.WARNING):
        teller.tell(NOTICE)
        teller.tell(NOTICE)
    assert len(hook.taken) == TRIES + 3  # the first is given up, the second is taken in the end
    assert len([r for r in caplog.records if "did not take" in r.message]) == TRIES + 2
    assert "302" in caplog.text and "503" in caplog.text


def test_a_mail_goes_to_the_owner_and_to_those_who_are_told_everything(mail: Any) -> None:
    with Teller(to_mail(mail, mail_to=["ops@example.com"], owners={"team-rated": "rated@example.com"})) as teller:
        teller.tell(NOTICE)
    (text,) = mail.taken
    assert "To: ops@example.com, rated@example.com" in text
    assert "Subject: Millstream shop: pipeline.rated is paused" in text
    assert "dropped year: step rated uses it" in text and "What to do: edit it" in text


def test_a_mail_server_that_refuses_or_is_not_there_stops_nobody(mail: Any, caplog: pytest.LogCaptureFixture) -> None:
    mail.refuses = True
    with caplog.at_level(logging.WARNING), Teller(to_mail(mail, mail_to=["ops@example.com"]), first_wait_s=0.01) as teller:
        teller.tell(NOTICE)
    assert not mail.taken
    assert len([r for r in caplog.records if "did not take" in r.message]) == TRIES


def test_no_secret_is_told_or_logged(hook: Any, caplog: pytest.LogCaptureFixture) -> None:
    hook.answers = [(500, {})] * TRIES
    said = Notice("shop", "pipeline.rated", "o", "paused", "at postgres://u:hunter2@db/x with hunter3", "c", "now")
    with (
        caplog.at_level(logging.DEBUG),
        Teller(to_hook(hook, webhook_token="hunter4"), lambda t: t.replace("hunter3", "***"), 0.01) as teller,
    ):
        teller.tell(said)
    assert hook.taken and "hunter" not in json.dumps([body for _, _, body in hook.taken])
    assert "hunter" not in caplog.text


def test_where_too_many_wait_the_rest_is_left_and_nobody_waits(caplog: pytest.LogCaptureFixture) -> None:
    teller = Teller(Options())  # its thread has not begun
    with caplog.at_level(logging.WARNING):
        for _ in range(WAITING_MAX + 2):
            teller.tell(NOTICE)
    assert len([r for r in caplog.records if "too many notices" in r.message]) == 2


@pytest.mark.parametrize(
    "given",
    [
        {"webhook": "http://hooks.example.com/x", "webhook_hosts": ["other.example.com"]},
        {"webhook": "http://hooks.example.com/x"},
        {"webhook": "ftp://hooks.example.com/x", "webhook_hosts": ["hooks.example.com"]},
        {"webhook": "http://u:p@hooks.example.com/x", "webhook_hosts": ["hooks.example.com"]},
        {"webhook": "http://hooks.example.com:99999/x", "webhook_hosts": ["hooks.example.com"]},
        {"webhook": "http://hooks.example.com:0/x", "webhook_hosts": ["hooks.example.com"]},
        {"webhook": "http://hooks.example.com/hunter2 \n", "webhook_hosts": ["hooks.example.com"]},
        {"webhook": "http://hooks.example.com/x", "webhook_hosts": ["hooks.example.com"], "webhook_token": "hunter2\n"},
        {"webhook": "http://hooks.example.com/x", "webhook_hosts": ["hooks.example.com"], "webhook_token": "hunter2"},
        {"webhook_token": "x"},
        {"smtp": "mail.example.com", "mail_from": "a@b", "mail_to": ["c@d"]},
        {"smtp": "mail.example.com:25", "mail_to": ["c@d"]},
        {"smtp": "mail.example.com:25", "mail_from": "a@b"},
        {"smtp": "mail.example.com:25", "mail_from": "a@b", "mail_to": ["c@d\r\nBcc: e@f"]},
        {"smtp": "m:25", "mail_from": "a@b", "mail_to": ["c@d"], "smtp_tls": "none", "smtp_user": "u", "smtp_password": "p"},
        {"smtp": "m:25", "mail_from": "a@b", "mail_to": ["c@d"], "smtp_user": "u"},
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        Options.model_validate(given)
    assert "hunter2" not in str(refused.value)
