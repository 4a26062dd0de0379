"""`millstream registry`: the schema registry over HTTP, without anything else running."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from cyclopts import App

from millstream.cli.exits import INTERRUPTED, OK
from millstream.cli.session import Here
from millstream.errors import Refused
from millstream.schemas.options import LISTEN, checked_listen, is_loopback

app = App(name="registry", help="The schema registry for other programs: `registry serve`.")


@app.command
def serve(*, listen: str | None = None, session: Here) -> int:
    """Answer the REST API of the Confluent Schema Registry, until Ctrl-C or SIGTERM.

    It may run beside `millstream run`, which serves the same registry itself where mesh.yaml has `registry: {listen: …}`.

    Example: `millstream registry serve --listen 127.0.0.1:8081`

    Parameters
    ----------
    listen
        host:port; without it what mesh.yaml says, or 127.0.0.1:8081. Beyond this machine it takes a token in mesh.yaml.
    """
    options = session.project.mesh.registry
    at = _checked(listen, bool(options.get("token"))) if listen else str(options.get("listen") or LISTEN)
    with session.mesh() as mesh, mesh.registry_served(at) as address:
        session.output.say(f"the schema registry answers at {address}")
        session.output.line({"address": address})
        stopped = _until_stopped()
    return INTERRUPTED if stopped == signal.SIGINT else OK


def _checked(listen: str, has_token: bool) -> str:
    try:
        checked_listen(listen)
    except ValueError as error:
        raise Refused(f"--listen {listen}: {error}", code="bad_value", cure="write --listen 127.0.0.1:8081") from None
    if not has_token and not is_loopback(listen):
        cure = "give `registry:` in mesh.yaml a token, or listen at 127.0.0.1"
        raise Refused(f"whoever reaches {listen} could delete subjects", code="registry_open", cure=cure)
    return listen


def _until_stopped() -> int:
    """Wait for SIGINT or SIGTERM, and say which it was."""
    caught: list[int] = []
    come = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        come.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        come.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return caught[0]
