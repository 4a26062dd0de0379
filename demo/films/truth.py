"""The judge: every table as the database had it at one time, read by plain SELECTs and joined here, in plain Python.

Nothing of it goes through Millstream, or through the engine that Millstream joins with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import psycopg

from demo.films.data import TABLES

Rows = list[dict[str, Any]]


def now(connection: psycopg.Connection) -> str:
    """The server's time after all that is committed, as `AS OF SYSTEM TIME` takes it."""
    row = connection.execute("SELECT cluster_logical_timestamp()::STRING").fetchone()
    assert row is not None
    return str(row[0])


def progress(time: str) -> str:
    """A server's time as a pipeline's progress is written."""
    wall, _, logical = time.partition(".")
    return f"{int(wall):016x}.{int(logical):08x}"


def read(connection: psycopg.Connection, time: str) -> dict[str, Rows]:
    """Table → its rows as they were at that time."""
    found = {}
    for table in TABLES:
        cursor = connection.execute(f"SELECT * FROM {table.name} AS OF SYSTEM TIME '{time}'")
        names = [column.name for column in cursor.description or ()]
        found[table.name] = [dict(zip(names, row, strict=True)) for row in cursor]
    return found


def documents(tables: Mapping[str, Rows], rated: bool) -> Rows:
    """What products/movie.yaml asks for, a document a movie; `rated`: with the column that was added later."""
    studio, person, genre = by_key(tables["studio"]), by_key(tables["person"]), by_key(tables["genre"])
    festival, member = by_key(tables["festival"]), by_key(tables["member"])
    genres, credits_ = by_movie(tables["movie_genre"]), by_movie(tables["credit"])
    awards, reviews = by_movie(tables["award"]), by_movie(tables["review"])
    made = []
    for movie in tables["movie"]:
        id_ = movie["id"]
        names = sorted(genre[g["genre_id"]]["name"] for g in genres[id_])
        cast = sorted(credits_[id_], key=lambda c: (c["position"], c["id"]))
        won = sorted(awards[id_], key=lambda a: (a["year"], a["id"]))
        stars = [r["stars"] for r in reviews[id_]]
        latest = sorted(reviews[id_], key=lambda r: (-_microseconds(r["written_at"]), str(r["id"])))[:3]
        made.append(
            {
                "id": id_,
                "title": movie["title"],
                "released": _text(movie["released"]),
                "budget": _text(movie["budget"]),
                **({"rating": movie["rating"]} if rated else {}),
                "studio": _some(studio.get(movie["studio_id"]), "name", "country"),
                "director": _some(person.get(movie["director_id"]), "name", "born"),
                "genres": names,
                "cast": [{"name": person.get(c["person_id"], {}).get("name"), "role": c["role"]} for c in cast],
                "awards": [
                    {
                        "festival": festival.get(a["festival_id"], {}).get("name"),
                        "city": festival.get(a["festival_id"], {}).get("city"),
                        "year": a["year"],
                        "prize": a["prize"],
                    }
                    for a in won
                ],
                "review_count": len(stars),
                "stars": sum(stars) / len(stars) if stars else None,
                "latest": [
                    {
                        "by": member.get(r["member_id"], {}).get("name"),
                        "stars": r["stars"],
                        "body": r["body"],
                        "written_at": _text(r["written_at"]),
                    }
                    for r in latest
                ],
            }
        )
    return made


def by_key(rows: Rows) -> dict[Any, dict[str, Any]]:
    return {row["id"]: row for row in rows}


def by_movie(rows: Rows) -> Mapping[int, Rows]:
    found: defaultdict[int, Rows] = defaultdict(list)
    for row in rows:
        found[row["movie_id"]].append(row)
    return found


def _some(row: Mapping[str, Any] | None, *names: str) -> dict[str, Any] | None:
    return None if row is None else {name: _text(row[name]) for name in names}


def _microseconds(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)


def _text(value: Any) -> str | None:
    """As documents say dates, times and decimals."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return None if value is None else str(value)
