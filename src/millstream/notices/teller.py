"""Tells owners what has become of their parts: by webhook and by e-mail, from a thread of its own.

Whoever tells never waits and never fails: a notice is tried a few times, each failure is logged, and then it is given up. What is told
stands in the catalogue too, so nothing is lost by that.
"""

from __future__ import annotations

import json
import logging
import queue
import smtplib
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from millstream.errors import without_secrets
from millstream.notices.options import Options

log = logging.getLogger("millstream.notices")

WAITING_MAX = 100
TRIES = 4
FIRST_WAIT_S = 1.0
ENDS_WITHIN_S = 10.0


@dataclass(frozen=True)
class Notice:
    """What happened to a part: `state` paused or resumed; `reason` says what and where, `cure` what to do; `at` is ISO 8601, UTC."""

    mesh: str
    part: str
    owner: str
    state: str
    reason: str
    cure: str
    at: str


class Teller:
    """Use it as a context; on leaving what waits is told, for some seconds. `blot` takes secrets out of a text (invariant 10)."""

    def __init__(self, options: Options, blot: Callable[[str], str] = lambda text: text, first_wait_s: float = FIRST_WAIT_S) -> None:
        self._options, self._blot, self._first_wait_s = options, blot, first_wait_s
        self._waiting: queue.Queue[Notice | None] = queue.Queue(WAITING_MAX)  # invariant 8
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="notices", daemon=True)

    def __enter__(self) -> Teller:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ending.set()
        try:
            self._waiting.put(None, timeout=ENDS_WITHIN_S)
        except queue.Full:
            log.warning("%s notices were not sent", self._waiting.qsize())
            return
        self._thread.join(ENDS_WITHIN_S)

    def tell(self, notice: Notice) -> None:
        """Hand it over. From any thread; never waits. Where too many wait, it is logged and left."""
        clean = Notice(**{name: self._blot(without_secrets(text)) for name, text in vars(notice).items()})
        try:
            self._waiting.put_nowait(clean)
        except queue.Full:
            log.warning("too many notices wait: that %s is %s was not sent", clean.part, clean.state)

    def _work(self) -> None:
        while (notice := self._waiting.get()) is not None:
            if self._options.webhook is not None:
                self._tried("the webhook", self._post, notice)
            if self._options.smtp is not None:
                self._tried("the mail server", self._mail, notice)

    def _tried(self, where: str, send: Callable[[Notice], None], notice: Notice) -> None:
        wait_s = self._first_wait_s
        for number in range(1, TRIES + 1):
            try:
                send(notice)
                return
            except (OSError, HTTPException, smtplib.SMTPException, ValueError) as e:
                said = self._blot(without_secrets(f"{type(e).__name__}: {e}"))
                log.warning("%s did not take that %s is %s (try %s of %s): %s", where, notice.part, notice.state, number, TRIES, said)
            if number < TRIES and self._ending.wait(wait_s):
                wait_s = 0.0  # the process ends: what is left is tried at once
            wait_s *= 4

    def _post(self, notice: Notice) -> None:
        """To exactly that host: an answer that leads elsewhere is a failure."""
        assert self._options.webhook is not None
        url = urlsplit(self._options.webhook.get_secret_value())
        assert url.hostname is not None
        make = HTTPSConnection if url.scheme == "https" else HTTPConnection
        connection = make(url.hostname, url.port, timeout=self._options.timeout_s)
        headers = {"Content-Type": "application/json"}
        if self._options.webhook_token is not None:
            headers["Authorization"] = f"Bearer {self._options.webhook_token.get_secret_value()}"
        try:
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("POST", path, json.dumps(vars(notice)).encode(), headers)
            answer = connection.getresponse()
            answer.read(1 << 16)
            if not 200 <= answer.status < 300:
                raise ValueError(f"it answered {answer.status}")
        finally:
            connection.close()

    def _mail(self, notice: Notice) -> None:
        assert self._options.smtp is not None and self._options.mail_from is not None
        own = self._options.owners.get(notice.owner)
        to = dict.fromkeys([*self._options.mail_to, *([own] if own else [])])
        if not to:
            return
        message = EmailMessage()
        message["From"], message["To"] = self._options.mail_from, ", ".join(to)
        message["Subject"] = f"Millstream {notice.mesh}: {notice.part} is {notice.state}"
        lines = (f"{notice.part} of {notice.owner or 'nobody'} is {notice.state} since {notice.at}.", notice.reason, _cure(notice))
        message.set_content("\n\n".join(line for line in lines if line))
        host, _, port = self._options.smtp.rpartition(":")
        timeout_s = self._options.timeout_s
        tls = self._options.smtp_tls == "tls"
        context = ssl.create_default_context()
        with (
            smtplib.SMTP_SSL(host, int(port), timeout=timeout_s, context=context)
            if tls
            else smtplib.SMTP(host, int(port), timeout=timeout_s) as server
        ):
            if self._options.smtp_tls == "starttls":
                server.starttls(context=context)
            if self._options.smtp_user is not None and self._options.smtp_password is not None:
                server.login(self._options.smtp_user, self._options.smtp_password.get_secret_value())
            server.send_message(message)


def _cure(notice: Notice) -> str:
    return f"What to do: {notice.cure}" if notice.cure else ""
