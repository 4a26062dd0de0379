"""The `millstream` command: one app of all groups, the options that every command takes, and how a call ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Group, Parameter

import millstream
from millstream.cli import backfill, diagnostics, products, registry, resend, schemas, searches, sources, topics
from millstream.cli.apply import apply
from millstream.cli.exits import MEANING, exit_code
from millstream.cli.init import init
from millstream.cli.lineage import lineage
from millstream.cli.output import Output, Secrets, console
from millstream.cli.plan import plan
from millstream.cli.preview import preview
from millstream.cli.query import query
from millstream.cli.reconcile import reconcile
from millstream.cli.resume import resume
from millstream.cli.run import run
from millstream.cli.search import search, suggest
from millstream.cli.session import Session, Wiring
from millstream.cli.status import status
from millstream.cli.test import test
from millstream.cli.validate import validate
from millstream.pipelines.diagnostics import InvalidProject

HELP = """\
Reads the changes of databases once, keeps them in topics, runs pipelines over them, and writes to tables and indexes.

The way through: `init` a project, describe sources and pipelines in its files, `validate` them, look at the `plan`,
`apply` it, `run` it, and ask for its `status`.
"""

EXIT_CODES = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in MEANING.items()) + "."

COMMANDS: tuple[Callable[..., int], ...] = (
    *(init, validate, test, preview, plan, apply, run, resume, status),
    *(query, lineage, reconcile, search, suggest),
)
GROUPS = (sources.app, topics.app, schemas.app, registry.app, products.app, searches.app, backfill.app, resend.app)


def build(session: list[Session], wiring: Wiring, secrets: Secrets) -> App:
    """The app. Each call puts its session into the list it is given, for whoever has to say how the call ended."""
    app = App(
        name="millstream",
        help=HELP,
        help_epilogue=EXIT_CODES,
        help_format="markdown",
        version=millstream.__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for place, command in enumerate(COMMANDS):
        app.command(command, sort_key=place)
    for group in GROUPS:
        app.command(group)
    app.meta.group_parameters = Group("Options of every command", sort_key=99)

    @app.meta.default
    def _call(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        project: Annotated[Path, Parameter(help="The project's folder; without it, the one you are in.")] = Path(),
        json: Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="Answer in JSON on stdout.")] = False,
    ) -> int:
        session.append(Session(project, Output(secrets, as_json=json), wiring))
        command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
        bound.arguments.update(dict.fromkeys(ignored, session[-1]))
        done = command(*bound.args, **bound.kwargs)
        return done if isinstance(done, int) else 0

    return app


def call(arguments: Sequence[str], wiring: Wiring, secrets: Secrets) -> int:
    """Run one command line and return its exit code. Errors are said on stderr; none is raised."""
    session: list[Session] = []
    app = build(session, wiring, secrets)
    out, err = console(), console(stderr=True)
    try:
        done = app.meta(list(arguments), console=out, error_console=err, exit_on_error=False, print_error=False)
        return done if isinstance(done, int) else 0
    except (Exception, KeyboardInterrupt) as error:
        voice = session[-1].output if session else Output(secrets, as_json="--json" in arguments)
        if isinstance(error, BrokenPipeError):  # who read us has seen enough; what is left must not be tried at exit again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if isinstance(error, InvalidProject):
            diagnostics.report(error, voice, session[-1].folder)
        elif not isinstance(error, KeyboardInterrupt):
            voice.error(error)
        return exit_code(error)
