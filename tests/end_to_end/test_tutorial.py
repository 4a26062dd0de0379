"""The tutorial does what it says: its files are written, its commands run, its SQL executed, its outputs found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from millstream.testing.postgres_server import PostgresServer

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial" / "first-pipeline.md"


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every block that names a language, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.servers
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    with PostgresServer() as server:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"SHOP_URL": server.url("postgres"), "PATH": path, "COLUMNS": "1000"}
        said, folder, done = "", tmp_path, []
        for language, text in blocks():
            done.append(language)
            if language == "sql":
                with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
                    connection.execute(text.encode())
            elif language == "yaml":
                name = re.match(r"# (\S+)\n", text)
                assert name is not None, "a file's first line names it"
                (tmp_path / name[1]).write_text(text)
            elif language == "sh":
                script = f"set -e\n{text}\npwd > {tmp_path / 'folder'}"
                ran = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
                assert ran.returncode == 0, f"{text}\n{ran.stdout}\n{ran.stderr}"
                said, folder = ran.stdout, Path((tmp_path / "folder").read_text().strip())
            elif language == "text":
                assert [line for line in text.splitlines() if line not in said] == [], said
        assert {"sql", "yaml", "sh", "text"} == set(done)
        assert server.execute("SELECT count(*) FROM pg_replication_slots") == [(0,)]
