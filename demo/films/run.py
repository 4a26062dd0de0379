"""The demo on CockroachDB, step by step: ten tables, a product woven from all of them, and the database's own rows as the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from demo.commands import Failed, Millstream
from demo.compare import compare_documents
from demo.films import changes, data, truth
from demo.films.place import Database, database
from demo.place import ended, workplace
from demo.results import documents, events, wait_until, wait_until_complete, wait_until_live
from demo.screen import Screen

PROJECT = Path(__file__).parent / "project"
PRODUCT = "movie"
RATINGS = "UPDATE movie SET rating = 'for everyone' WHERE budget < 5000000"


class Demo:
    """One run. `step` methods stand in the order in which they happen."""

    def __init__(self, place: Database, project: Path, movies: int, screen: Screen) -> None:
        self.place, self.project, self.movies, self.screen = place, project, movies, screen
        self.connection = place.connect()
        self.millstream = Millstream(project, {"FILMS_URL": place.url}, screen)
        self.transactions = 0

    def run(self) -> dict[str, Any]:
        with self.connection:
            self.load()
            self.apply()
            self.catch_up()
            before = self.millstream.document(PRODUCT, changes.SHOWN)
            with self.millstream.live():
                wait_until_live(self.millstream)
                self.change()
                read = self.backfill()
                self.new_columns()
            self.screen.say("stopped by SIGINT with everything committed, and started again with what was applied")
            with self.millstream.live():
                self.new_generation()
                self.screen.say(f"the document of movie {changes.SHOWN}, before and after all this:")
                self.screen.document(before, self.millstream.document(PRODUCT, changes.SHOWN))
            return self.judge(read)

    def load(self) -> None:
        where = "a stand-in for CockroachDB, which repeats and reorders as real servers do" if self.place.standin else "your CockroachDB"
        self.screen.step(f"Fill ten tables of {where}")
        with self.screen.bar("rows by INSERT", sum(map(len, data.rows(self.movies).values()))) as done:
            loaded = data.load(self.connection, self.movies, done)
        self.screen.rows([{"table": name, "rows": f"{rows:,}"} for name, rows in loaded.items()])

    def apply(self) -> None:
        self.screen.step("Check the project's files, see what they would do, do it")
        self.screen.say(f"the project: {PROJECT.relative_to(PROJECT.parents[2])}")
        for command in ("validate", "plan", "apply"):
            self.millstream.run(command)

    def catch_up(self) -> None:
        self.screen.step("Load everything through the topics into the index")
        self.millstream.run("run", "--until-caught-up")
        self.millstream.run("search", PRODUCT, "ANY awards (prize = 'best film') AND review_count > 2", "--limit", "1")

    def change(self) -> None:
        self.screen.step("Change the tables while Millstream runs")
        done = []
        for change in changes.SCRIPT:
            touched = changes.apply(self.connection, change)
            done.append({"committed": change.title, "movies": f"{touched:,}"})
        self.transactions += len(done)
        self.screen.rows(done)
        self.told()

    def backfill(self) -> int:
        """Gives the rows that it read."""
        self.screen.step("Read a part of a table again, while transactions by chance go on over all ten")
        name = "low-stars"
        self.millstream.run("backfill", "start", "films", "public.review", "--where", "stars <= 2", "--name", name)
        storm, count = changes.Storm(self.connection), self.movies
        with self.screen.bar("transactions over one to five tables", count) as done:
            for n in range(count):
                if n == count // 2:
                    self.place.unsettle()
                storm.step()
                done(n + 1)
        self.transactions += count
        if self.place.standin:
            self.screen.say("in the midst of it all ranges were split, and every connection of the feeds broke off")
        wait_until(lambda: self.millstream.json("backfill", "show", name)["state"] in ("done", "failed", "cancelled"), name)
        self.millstream.run("backfill", "list")
        shown = self.millstream.json("backfill", "show", name)
        if shown["state"] != "done":
            raise Failed(f"backfill {name} is {shown['state']}: {shown}")
        self.told()
        return int(shown["read"])

    def new_columns(self) -> None:
        self.screen.step("Add two columns: one that nobody uses yet, and one that the product then shows")
        for statement in (
            "ALTER TABLE review ADD COLUMN helpful INT8 NOT NULL DEFAULT 0",
            "ALTER TABLE movie ADD COLUMN rating STRING NOT NULL DEFAULT 'unrated'",
            "UPDATE review SET helpful = 3 WHERE stars = 5",
            RATINGS,
        ):
            self.screen.say(f"{statement};", "green")
            self.connection.execute(statement)
        self.transactions += 2
        self.told()
        file = self.project / "products" / "movie.yaml"
        text = file.read_text()
        file.write_text(text.replace("released, budget]", "released, budget, rating]"))
        self.screen.say("products/movie.yaml: fields: [id, title, released, budget, rating]", "green")
        self.millstream.run("plan")
        self.millstream.run("apply")

    def new_generation(self) -> None:
        """The product with the new column is built beside the one that is searched, and then takes its place."""
        wait_until(lambda: not self.building(), "the second generation of the product")
        self.millstream.run("products", "list")
        self.millstream.run("search", PRODUCT, "rating = 'for everyone'", "--limit", "1", "--fields", "title,rating,budget,review_count")
        self.told()

    def building(self) -> bool:
        return self.millstream.json("search", PRODUCT, f"id:{changes.SHOWN}", "--limit", "1")["hits"][0]["document"].get("rating") is None

    def told(self) -> None:
        """Return when all that is committed is in the index."""
        target = truth.progress(truth.now(self.connection))
        self.screen.say(f"everything is in the index {wait_until_complete(self.millstream, target):.1f} s after the last change")

    def judge(self, read: int) -> dict[str, Any]:
        self.screen.step("Compare every document with the ten tables, read as of one time and joined without Millstream")
        time = truth.now(self.connection)
        verdict = compare_documents(truth.documents(truth.read(self.connection, time), rated=True), documents(self.project, PRODUCT), "id")
        self.screen.verdicts({f"product {PRODUCT}": verdict})
        counted = events(self.project)
        self.screen.rows([{"topic": name, "events": f"{n:,}"} for name, n in counted.items()])
        source = next(p for p in self.millstream.json("status")["parts"] if p["part"] == "source.films")
        dropped = source["figures"].get("dropped", {})
        self.screen.say(f"the source left out: {', '.join(f'{n:,} {what}' for what, n in dropped.items()) or 'nothing'}")
        return {
            "tables": len(data.TABLES),
            "transactions": self.transactions,
            "events": sum(counted.values()),
            "documents": verdict.rows,
            "backfilled": read,
            "repeats_dropped": dropped.get("repeats", 0),
            "dropped": dropped,
            "seconds": round(self.screen.seconds, 1),
            "mismatches": verdict.differing,
        }


HINTS = (
    "topics and index are all there; the database is not, unless it was your own",
    "export FILMS_URL=postgresql:///",
    "millstream search movie Zephyr     millstream topics list     millstream topics read films.public.review",
)


def main(movies: int = data.MOVIES, keep: bool = False, pace: float = 1.0) -> int:
    """Gives the exit code: 0 all equal, 1 something differs, 2 a step failed, 130 interrupted."""

    def judged(screen: Screen) -> dict[str, Any]:
        with workplace(PROJECT, keep, screen, HINTS) as project, database(keep, pace) as place:
            return Demo(place, project, movies, screen).run()

    return ended(judged)
