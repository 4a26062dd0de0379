"""The voice of the commands: what is blotted, what is not, how errors look; and the one logging setup."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from millstream.cli.exits import exit_code
from millstream.cli.live import Lines, Moving, Rates, _json_lines, _text_lines
from millstream.cli.output import Output, Secrets
from millstream.engine.runner import PartStatus
from millstream.errors import BadRecord, Irrecoverable, Refused, Retryable
from millstream.wiring import set_up_logging

URL = "postgresql://ann:p%40ss%2Fword@db/shop"


@pytest.fixture
def secrets() -> Secrets:
    known = Secrets()
    known.add([URL, "sesame-open"])
    return known


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"cannot reach {URL}", "cannot reach ***"),
        ("the password p@ss/word is wrong", "the password *** is wrong"),
        ("p%40ss%2Fword", "***"),
        ("open with sesame-open!", "open with ***!"),
        ("other://bob:pw@host/x password=abc", "other://bob:***@host/x password=***"),
        ("nothing secret here", "nothing secret here"),
    ],
)
def test_blotting(secrets, text, said) -> None:
    assert secrets.blot(text) == said


def test_a_password_that_is_the_users_name_hides_nothing() -> None:
    """Else every text about the connector postgres would be unreadable where user and password are both postgres."""
    known = Secrets()
    known.add(["postgresql://postgres:postgres@db/shop"])
    assert known.blot("connector postgres") == "connector postgres"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (URL, "postgresql://ann:***@db/shop"),
        ("postgresql:///shop", "postgresql:///shop"),
        ("postgresql://ann:p@ss@db:5/shop", "postgresql://ann:***@db:5/shop"),
        ("sesame-open", "***"),
        (10.0, "10.0"),
        ("host=db password=abc", "host=db password=***"),
    ],
)
def test_options_show_all_but_the_password(secrets, value, shown) -> None:
    assert secrets.option(value) == shown


def test_an_error_has_place_message_and_cure(secrets, capsys) -> None:
    error = Refused("no key for sesame-open", code="no_key", where="shop", cure="add one")
    Output(secrets).error(error)
    assert capsys.readouterr().err == "shop: error[no_key]: no key for ***\n  cure: add one\n"
    Output(secrets, as_json=True).error(error)
    said = capsys.readouterr()
    assert json.loads(said.err) == {"error": {"code": "no_key", "where": "shop", "message": "no key for ***", "cure": "add one"}}
    assert said.out == ""


def test_a_traceback_only_on_demand(secrets, capsys, monkeypatch) -> None:
    for wanted in (False, True):
        if wanted:
            monkeypatch.setenv("MILLSTREAM_DEBUG", "1")
        try:
            raise ZeroDivisionError("sesame-open")
        except ZeroDivisionError as error:
            Output(secrets).error(error)
        said = capsys.readouterr().err
        assert ("Traceback" in said, "error[defect]" in said, "sesame-open" in said) == (wanted, True, False)


def test_exit_codes() -> None:
    codes = {
        Refused("", code="x"): 2,
        Refused("", code="not_applied"): 3,
        Irrecoverable("", code="not_applied"): 3,
        Irrecoverable("", code="x"): 1,
        Retryable("", code="x"): 1,
        BadRecord("", code="x"): 1,
        KeyboardInterrupt(): 130,
        ValueError(): 1,
    }
    assert {e: exit_code(e) for e in codes} == codes


def test_long_lines_and_marks_stay_whole_where_there_is_no_terminal(secrets, capsys) -> None:
    voice = Output(secrets)
    voice.say("x" * 500 + " [bold]not markup[/bold] :smile:")
    assert capsys.readouterr().out == "x" * 500 + " [bold]not markup[/bold] :smile:\n"
    voice.table(("a",), [], "none yet")
    assert capsys.readouterr().out == "none yet\n"


# ---- logging


@pytest.fixture
def root_logger():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = before


def test_logs_hold_no_secret_and_no_traceback(secrets, capsys, root_logger) -> None:
    log = logging.getLogger("millstream.test")
    for env, traced in (({}, False), ({"MILLSTREAM_DEBUG": "1"}, True)):
        set_up_logging(secrets.blot, env)
        try:
            raise ValueError("sesame-open")
        except ValueError:
            log.exception("cannot use %s", URL)
        log.info("not at this level")
        said = capsys.readouterr().err
        assert "cannot use ***" in said
        assert ("Traceback" in said, "sesame-open" in said, "not at this level" in said) == (traced, False, False)
    set_up_logging(secrets.blot, {"MILLSTREAM_LOG": "info"})
    log.info("at this level")
    assert "at this level" in capsys.readouterr().err


# ---- the view of a run


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def part(events: int, state="running", **more) -> PartStatus:
    return PartStatus("source.shop", state, events=events, **more)


def test_rates_are_of_the_last_seconds() -> None:
    clock = Clock()
    rates = Rates(clock)
    assert rates.of(part(0)) == 0
    for second in range(1, 11):
        clock.now += 1
        rate = rates.of(part(100 * second if second <= 5 else 500))
        if second == 5:
            assert rate == 100
    assert rate == 0


def test_lines_come_at_a_change_and_every_few_seconds_while_something_moves(secrets, capsys) -> None:
    clock = Clock()
    view = Lines(Output(secrets), clock, _text_lines)

    def seen(*parts: PartStatus) -> str:
        view.watch(list(parts))
        return capsys.readouterr().out

    assert seen(part(0, "starting")) == "source.shop: starting\n"
    assert seen(part(5)) == "source.shop: running, 5 events\n"
    assert seen(part(9)) == ""
    clock.now += 5
    assert (
        seen(part(10, doing="initial load", done=10, total=2000))
        == "source.shop: running, 10 events, 1/s, initial load 10 of about 2,000\n"
    )
    clock.now += 50
    assert seen(part(10, doing="initial load", done=10, total=2000)) == ""
    failed = part(10, "failed", reason="no sesame-open", cure="wait")
    assert seen(failed) == "source.shop: failed, 10 events, no ***\n  cure: wait\n"
    as_json = Lines(Output(secrets, as_json=True), clock, _json_lines)
    as_json.watch([failed])
    line = json.loads(capsys.readouterr().out)
    assert (line["name"], line["state"], line["reason"], line["cure"]) == ("source.shop", "failed", "no ***", "wait")


def test_the_moving_table_shows_bars_and_reasons(secrets, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    view = Moving(Output(secrets), Clock())
    with view.shown():
        view.watch([part(7, doing="initial load", done=50, total=100), part(0, "failed", reason="no sesame-open", cure="wait")])
    said = capsys.readouterr().out
    for words in ("initial load 50 of about 100", "━", "source.shop: no ***", "cure: wait"):
        assert words in said
