"""The demos, small: they end with no mismatch, and whatever ends one, nothing of it stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "demo.flights", "--rows", "2000"]
FILMS = [sys.executable, "-m", "demo.films", "--rows", "20", "--pace", "8"]

pytestmark = pytest.mark.servers


@pytest.fixture
def place() -> Iterator[Path]:
    """For temporary files. Its path is short, as a user's is: a socket lies in the state folder, not beside it."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        yield Path(folder)


def still_running(place: Path) -> list[str]:
    """Command lines of processes that name the place."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(place) in line]


def test_every_document_row_and_line_is_what_postgres_computes(place: Path) -> None:
    done = subprocess.run(COMMAND, cwd=ROOT, env=os.environ | {"TMPDIR": str(place)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert verdict.keys() == {"events", "documents", "planes", "iceberg_rows", "seconds", "mismatches"}
    # One flight is deleted and one inserted; every table's rows are events, every document is one more.
    assert (verdict["documents"], verdict["planes"], verdict["iceberg_rows"], verdict["mismatches"]) == (2000, 3322, 2000, 0)
    assert verdict["events"] > 2 * 2000 + 26_115 + 2 * 3_322 + 1_458 + 16
    assert (list(place.iterdir()), still_running(place)) == ([], [])


def test_every_movie_is_what_the_rows_of_ten_cockroach_tables_say(place: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "MILLSTREAM_COCKROACH_URL"} | {"TMPDIR": str(place)}
    done = subprocess.run(FILMS, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert (verdict["tables"], verdict["mismatches"]) == (10, 0)
    # Each transaction by chance is one more than the changes of the script and of the new columns.
    assert verdict["transactions"] == 6 + 20 + 2
    assert verdict["documents"] > 10
    assert verdict["backfilled"] > 5
    # The feed broke off in the midst of it, and a split made it tell much again.
    assert verdict["repeats_dropped"] > 0
    assert verdict["dropped"]["covered"] > 0
    assert (list(place.iterdir()), still_running(place)) == ([], [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_leaves_nothing(place: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        COMMAND, cwd=ROOT, env=os.environ | {"TMPDIR": str(place)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        # A server, two databases and a first command are up by now.
        for line in process.stdout:
            if "millstream validate" in line:
                break
        process.send_signal(number)
        process.stdout.read()
    assert process.wait(60) == 130
    assert (list(place.iterdir()), still_running(place)) == ([], [])
