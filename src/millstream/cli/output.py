"""How commands speak: tables and sentences for people, JSON for programs, errors on stderr. Invariant 10.

Everything that is a sentence (messages, reasons, cures, definitions) is blotted here. What the events of a topic hold
is the user's data: it is asked for, and shown as it is.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from cyclopts import CycloptsError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from millstream.errors import MillstreamError, without_secrets

WIDTH_WITHOUT_TERMINAL = 160
DEBUG = "MILLSTREAM_DEBUG"

STYLES = {
    "running": "green",
    "caught_up": "green",
    "waiting": "yellow",
    "retrying": "yellow",
    "starting": "cyan",
    "stopped": "dim",
    "failed": "bold red",
    "not running": "dim",
}


class Secrets:
    """The secrets that are known so far, and the blotter for all texts that leave the process."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def add(self, secrets: Iterable[str]) -> None:
        """Also the passwords inside URLs: a driver may speak of one without the rest."""
        for secret in filter(None, secrets):
            self._known.update({secret, *_passwords(secret)})

    def blot(self, text: str) -> str:
        # The longest first: one secret may be part of another.
        return without_secrets(text, sorted(self._known, key=len, reverse=True))

    def option(self, value: object) -> str:
        """An option's value as it may be shown: of a URL everything but its password, of any other secret nothing."""
        text = str(value)
        url = _without_password(text)
        return self.blot(text) if url is None else without_secrets(url, self._passwords)

    @property
    def _passwords(self) -> set[str]:
        return {p for secret in self._known for p in _passwords(secret)}


def console(*, stderr: bool = False) -> Console:
    """A console on the present stdout or stderr; wide where there is no terminal, so that nothing is cut in a file."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH_WITHOUT_TERMINAL
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False)


class Output:
    """One command's voice. With `as_json` only documents reach stdout; sentences are for people and fall silent."""

    def __init__(self, secrets: Secrets, *, as_json: bool = False) -> None:
        self.secrets, self.as_json = secrets, as_json
        self.out, self.err = console(), console(stderr=True)

    def say(self, text: str = "", style: str = "") -> None:
        """A sentence for people."""
        if not self.as_json:
            self.out.print(Text(self.secrets.blot(text), style), soft_wrap=True)

    def show(self, text: Text) -> None:
        """The user's data, with its styles, for people."""
        if not self.as_json:
            self.out.print(text, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A sentence that is worth seeing also where stdout is read by a program."""
        self.err.print(Text(self.secrets.blot(text), "yellow"), soft_wrap=True)

    def document(self, document: Any) -> None:
        """The whole answer as one JSON text; only with `as_json`."""
        if self.as_json:
            self.out.file.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")

    def line(self, document: Mapping[str, Any]) -> None:
        """One of many answers, as a line of JSON; only with `as_json`."""
        if self.as_json:
            self.out.file.write(json.dumps(document, ensure_ascii=False) + "\n")
            self.out.file.flush()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str, numbers: Sequence[bool] = ()) -> None:
        """A table for people; `empty` is said where there is no row. `numbers`: which columns hold numbers, of tables that are not ours."""
        rows = list(rows)
        if self.as_json:
            return
        if not rows:
            self.say(empty, "dim")
            return
        table = plain_table(columns, numbers)
        for row in rows:
            table.add_row(*(cell(value) for value in row))
        self.out.print(table)

    def error(self, error: BaseException) -> None:
        """Place, message, cure on stderr; a traceback only with MILLSTREAM_DEBUG=1."""
        if os.environ.get(DEBUG):
            self.err.print(Text(self.secrets.blot("".join(traceback.format_exception(error)))), soft_wrap=True)
        if self.as_json:
            self.err.file.write(json.dumps({"error": self.error_document(error)}, ensure_ascii=False) + "\n")
        else:
            self.err.print(self.error_text(error), soft_wrap=True)

    def error_document(self, error: BaseException) -> dict[str, str]:
        code, where, message, cure = _parts(error)
        blot = self.secrets.blot
        return {"code": code, "where": blot(where), "message": blot(message), "cure": blot(cure)}

    def error_text(self, error: BaseException) -> Text:
        said = self.error_document(error)
        place = f"{said['where']}: " if said["where"] else ""
        text = Text.assemble((place, "bold"), ("error", "bold red"), (f"[{said['code']}]", "red"), ": ", said["message"])
        if said["cure"]:
            text.append("\n  cure: ", "bold green").append(said["cure"])
        return text


def _passwords(secret: str) -> Iterator[str]:
    """The password of a URL, as written and as meant. One that is the user's name stands in every shown URL: it hides nothing."""
    try:
        url = urlsplit(secret)
    except ValueError:
        return
    if url.password and url.password != url.username:
        yield url.password
        yield unquote(url.password)


def _without_password(text: str) -> str | None:
    """A URL with its password blotted; None for a text that is not one, or whose query may hold secrets."""
    try:
        url = urlsplit(text)
    except ValueError:
        return None
    if not url.scheme or "://" not in text or url.query:
        return None
    who, at, where = url.netloc.rpartition("@")
    name, colon, _ = who.partition(":")
    return text.replace(url.netloc, f"{name}{':***' if colon else ''}{at}{where}", 1) if url.netloc else text


def counted(number: int, noun: str) -> str:
    """1 step, 2 steps."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def plain_table(columns: Sequence[str], numbers: Sequence[bool] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    ours = [c in ("events", "lag", "rows", "records", "end", "offset", "version", "id", "/s", "score") for c in columns]
    for column, number in zip(columns, numbers or ours, strict=True):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def cell(value: object) -> Text:
    if value is None:
        return Text("-", "dim")
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(f"{value:,}")
    if isinstance(value, Text):
        return value
    return Text(str(value), STYLES.get(str(value), ""))


def _parts(error: BaseException) -> tuple[str, str, str, str]:
    """code, where, message, cure."""
    if isinstance(error, MillstreamError):
        return error.code, error.where, error.message, error.cure
    if isinstance(error, CycloptsError):
        return "usage", "", str(error), "`millstream --help` lists the commands, `millstream COMMAND --help` explains one"
    if isinstance(error, OSError):
        return "system", str(error.filename or ""), error.strerror or str(error), "check the path, its permissions and the space left"
    return "defect", "", f"{type(error).__name__}: {error}", f"this is a fault of millstream; {DEBUG}=1 shows where"
