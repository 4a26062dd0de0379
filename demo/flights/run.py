"""The demo, step by step: a real PostgreSQL, a year of flights, Millstream as a user runs it, and Postgres as the judge."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import psycopg
import yaml

from demo.commands import Millstream
from demo.compare import compare, compare_documents, from_json
from demo.flights import changes, data, results
from demo.flights.truth import true_documents, truth
from demo.place import ended, workplace
from demo.results import documents as found
from demo.results import events, wait_until_complete, wait_until_live
from demo.screen import Screen
from millstream.testing.postgres_server import PostgresServer

PROJECT = Path(__file__).parent / "project"


class Demo:
    """One run. `step` methods stand in the order in which they happen."""

    def __init__(self, server: PostgresServer, project: Path, rows: int, screen: Screen) -> None:
        self.server, self.project, self.rows, self.screen = server, project, rows, screen
        self.millstream = Millstream(project, {f"{d.upper()}_URL": server.url(d) for d in data.DATABASES}, screen)

    def run(self) -> dict[str, Any]:
        self.load()
        self.apply()
        self.catch_up()
        self.change()
        self.ask()
        return self.judge()

    def load(self) -> None:
        self.screen.step("Load a year of flights into two databases of one PostgreSQL 18")
        for database in data.DATABASES:
            self.server.create_database(database)
        totals: dict[str, int] = {}
        with self.screen.bar("rows by COPY", self.rows) as done:

            def on_rows(table: str, rows: int) -> None:
                totals[table] = rows
                done(totals.get("flights", 0))

            loaded = data.load(self.server.url, self.rows, on_rows)
        self.screen.rows([{"database": d.database, "table": d.name, "rows": f"{loaded[d.name]:,}"} for d in data.DATASETS])

    def apply(self) -> None:
        self.screen.step("Check the project's files, see what they would do, do it")
        self.screen.say(f"the project: {PROJECT.relative_to(PROJECT.parents[2])}")
        for command in ("validate", "plan", "apply"):
            self.millstream.run(command)

    def catch_up(self) -> None:
        self.screen.step("Load everything through the topics into the index, the Iceberg table and the file")
        self.millstream.run("run", "--until-caught-up")

    def change(self) -> None:
        self.screen.step("Change both databases while Millstream runs")
        with psycopg.connect(self.server.url("operations")) as operations, psycopg.connect(self.server.url("reference")) as reference:
            cast = changes.choose(operations, reference)
        before = self.document(cast.shown)
        with self.millstream.live():
            wait_until_live(self.millstream)
            done = []
            for change in changes.script(cast):
                touched = changes.apply(change, self.server.url)
                done.append({"committed": change.title, "in": change.database, "flights": f"{touched:,}"})
            self.screen.rows(done)
            seconds = wait_until_complete(self.millstream, results.now(self.server.url("operations")))
            self.screen.say(f"everything is in the index, the table and the file; {seconds:.1f} s after the last change")
            self.screen.say(f"the document of flight {cast.shown}, before and after:")
            self.screen.document(before, self.document(cast.shown))
        self.screen.say("stopped by SIGINT, with everything committed")

    def document(self, key: int) -> dict[str, Any]:
        """The document of one flight."""
        return self.millstream.document(results.INDEX, key)

    def ask(self) -> None:
        self.screen.step("Ask the indexes and the Iceberg table")
        self.millstream.run("search", "flights", "Zephyr")
        late = "ANY latest (airline = 'Millstream Air' AND delay > 30)"
        self.millstream.run(
            "search",
            "planes",
            late,
            "--facet",
            "manufacturer:3",
            "--sort",
            "flights:desc",
            "--limit",
            "1",
            "--fields",
            "manufacturer,flights,latest",
        )
        self.screen.say("DuckDB over the Iceberg table:")
        self.screen.rows(results.busiest_routes(self.project))

    def judge(self) -> dict[str, Any]:
        self.screen.step("Compare every document, row and column with what Postgres itself computes")
        joined = truth(self.server.url, step_sql("flight_documents"))
        delays = truth(self.server.url, step_sql("long_delays"))
        documents = compare(joined, from_json(found(self.project, results.INDEX), joined.schema), "id")
        iceberg = compare(joined, results.current_rows(self.project), "id")
        planes = compare_documents(
            true_documents(self.server.url, (Path(__file__).parent / "planes.sql").read_text()),
            found(self.project, results.PRODUCT),
            "tailnum",
        )
        file = compare(delays, from_json(results.last_lines(self.project), delays.schema), "id")
        self.screen.verdicts(
            {
                f"search index flights, {len(joined.schema)} columns": documents,
                "product planes, with their latest flights": planes,
                f"Iceberg table lake.flights, {len(joined.schema)} columns": iceberg,
                f"file long_delays.jsonl, {len(delays.schema)} columns": file,
            }
        )
        counted = events(self.project)
        self.screen.rows([{"topic": name, "events": f"{n:,}"} for name, n in counted.items()])
        return {
            "events": sum(counted.values()),
            "documents": documents.rows,
            "planes": planes.rows,
            "iceberg_rows": iceberg.rows,
            "seconds": round(self.screen.seconds, 1),
            "mismatches": documents.differing + planes.differing + iceberg.differing + file.differing,
        }


def step_sql(pipeline: str) -> str:
    """The SQL that a user wrote: the judge answers to the same text."""
    return yaml.safe_load((PROJECT / "pipelines" / f"{pipeline}.yaml").read_text())["steps"][0]["sql"]


HINTS = (
    "PostgreSQL is stopped; topics, index, table and file are all there",
    "export OPERATIONS_URL=postgresql:/// REFERENCE_URL=postgresql:///",
    "millstream search flights Boston     millstream topics list     millstream topics read operations.public.flights",
)


def main(rows: int = data.FLIGHTS_TOTAL, keep: bool = False) -> int:
    """Gives the exit code: 0 all equal, 1 something differs, 2 a step failed, 130 interrupted."""

    def judged(screen: Screen) -> dict[str, Any]:
        with (
            workplace(PROJECT, keep, screen, HINTS) as project,
            PostgresServer(project.parent / "postgres", password=secrets.token_hex(8)) as server,
        ):
            return Demo(server, project, rows, screen).run()

    return ended(judged)
