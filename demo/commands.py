"""The `millstream` command, called as a user calls it: a process of its own, in the project's folder, URLs in the environment."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo.screen import Screen

STOP_SECONDS = 60
# What `millstream run` says when it was interrupted and had committed everything.
INTERRUPTED = 130


class Failed(Exception):
    """A command ended otherwise than it should; the text says which and what it printed."""


class Millstream:
    def __init__(self, project: Path, urls: Mapping[str, str], screen: Screen) -> None:
        self.project = project
        self.environment = os.environ | urls
        self.screen = screen
        # The command that was installed beside this interpreter.
        self.program = str(Path(sys.executable).parent / "millstream")

    def run(self, *arguments: str) -> None:
        """Show the command and let it speak for itself."""
        self.screen.command(" ".join(map(_typed, ["millstream", *arguments])))
        done = subprocess.run([self.program, *arguments], cwd=self.project, env=self.environment)
        if done.returncode:
            raise Failed(f"millstream {' '.join(arguments)} ended with {done.returncode}")

    def json(self, *arguments: str) -> Any:
        """What the command answers to --json."""
        done = subprocess.run([self.program, "--json", *arguments], cwd=self.project, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"millstream {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}{done.stdout}")
        return json.loads(done.stdout)

    def document(self, index: str, key: int) -> dict[str, Any]:
        """One document, as a search finds it by its field `id`."""
        hits = self.json("search", index, f"id:{key}", "--limit", "1")["hits"]
        if not hits:
            raise Failed(f"the index {index} has no document {key}")
        return hits[0]["document"]

    @contextmanager
    def live(self) -> Iterator[subprocess.Popen[bytes]]:
        """`millstream run` beside us, its words in run.log. SIGINT ends it; it must commit, stop, and say so by its exit code."""
        log = self.project / "run.log"
        self.screen.command("millstream run &")
        with log.open("wb") as output:
            # A session of its own: Ctrl-C reaches us first, and we pass it on.
            process = subprocess.Popen(
                [self.program, "run"],
                cwd=self.project,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                yield process
            except BaseException:
                _end(process)
                raise
            code = _end(process)
        if code != INTERRUPTED:
            raise Failed(f"millstream run ended with {code}:\n{log.read_text(errors='replace')[-2000:]}")


def _typed(argument: str) -> str:
    """An argument as a person would type it in a shell."""
    plain = shlex.quote(argument)
    return f'"{argument}"' if plain != argument and not set(argument) & set('"$`\\!') else plain


def _end(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return -signal.SIGKILL
