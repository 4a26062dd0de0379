"""The tutorials do what they say: their files are written, their commands run, their SQL executed, their outputs found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from millstream.testing.postgres_server import PostgresServer

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorial"
DATABASES = {"first-pipeline": ("postgres",), "first-product": ("studio", "hr")}


def blocks(tutorial: str) -> list[tuple[str, str]]:
    """(language, text) of every block that names a language, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", (TUTORIALS / f"{tutorial}.md").read_text(), re.MULTILINE | re.DOTALL)


def named(text: str, folder: Path) -> Path:
    """The file that the first line of a block names."""
    name = re.match(r"# (\S+)\n", text)
    assert name is not None, "a file's first line names it"
    return folder / name[1]


def edit(text: str, file: Path) -> None:
    """What a block of - and + lines says of a file."""
    old, new = ("".join(line[1:] for line in text.splitlines(keepends=True) if line[0] == sign) for sign in "-+")
    was = file.read_text()
    assert was.count(old) == 1, old
    file.write_text(was.replace(old, new))


def test_every_tutorial_is_run() -> None:
    assert {p.stem for p in TUTORIALS.iterdir()} == DATABASES.keys()


@pytest.mark.servers
@pytest.mark.parametrize("tutorial", DATABASES)
def test_the_tutorial_does_what_it_says(tutorial: str, tmp_path: Path) -> None:
    with PostgresServer() as server:
        databases = DATABASES[tutorial]
        for database in databases:
            if database != "postgres":
                server.create_database(database)
        urls = {"SHOP_URL": server.url("postgres"), "STUDIO_URL": server.url("studio"), "HR_URL": server.url("hr")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | urls | {"PATH": path, "COLUMNS": "1000"}
        said, folder, done = "", tmp_path, []
        for language, text in blocks(tutorial):
            done.append(language)
            if language == "sql":
                where = re.match(r"-- in (\w+)\n", text)
                with psycopg.connect(server.url(where[1] if where else databases[0]), autocommit=True) as connection:
                    connection.execute(text.encode())
            elif language == "yaml":
                named(text, tmp_path).write_text(text)
            elif language == "diff":
                edit(text, named(text, tmp_path))
            elif language in ("sh", "python"):
                script = f"set -e\n{text}\npwd > {tmp_path / 'folder'}"
                command = ["bash", "-c", script] if language == "sh" else [sys.executable, "-c", text]
                ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
                assert ran.returncode == 0, f"{text}\n{ran.stdout}\n{ran.stderr}"
                said, folder = ran.stdout, Path((tmp_path / "folder").read_text().strip())
            elif language == "text":
                assert [line for line in text.splitlines() if line not in said] == [], said
            else:
                pytest.fail(f"{tutorial} has a block that nobody runs: {language}")
        assert {"sql", "yaml", "sh", "text"} <= set(done)
        assert server.execute("SELECT count(*) FROM pg_replication_slots") == [(0,)]
