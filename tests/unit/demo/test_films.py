"""The judge of the films: what it joins is what the tables say, and a document that is otherwise is counted."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from demo.compare import compare_documents
from demo.films import data, truth

AT = datetime(2020, 1, 1, 12, tzinfo=UTC)


def tables() -> dict[str, list[dict[str, Any]]]:
    return {
        "studio": [{"id": 1, "name": "Meridian", "country": None}],
        "person": [{"id": 7, "name": "Ada", "born": date(1900, 2, 3)}, {"id": 8, "name": "Jun", "born": None}],
        "genre": [{"id": 1, "name": "western"}, {"id": 2, "name": "drama"}],
        "movie": [
            {
                "id": 1,
                "title": "A",
                "released": date(1999, 1, 1),
                "studio_id": 1,
                "director_id": 7,
                "budget": Decimal("1.50"),
                "rating": "x",
            },
            {"id": 2, "title": "B", "released": None, "studio_id": None, "director_id": 9, "budget": None, "rating": "y"},
        ],
        "movie_genre": [{"movie_id": 1, "genre_id": 1}, {"movie_id": 1, "genre_id": 2}],
        "credit": [
            {"id": 2, "movie_id": 1, "person_id": 8, "role": "second", "position": 1},
            {"id": 3, "movie_id": 1, "person_id": 7, "role": "first", "position": 0},
        ],
        "festival": [{"id": 1, "name": "F", "city": "C"}],
        "award": [{"id": 1, "movie_id": 1, "festival_id": 1, "year": 2000, "prize": "P"}],
        "member": [{"id": "m", "name": "M", "since": AT}],
        "review": [
            {"id": str(n), "movie_id": 1, "member_id": "m" if n else None, "stars": n + 1, "body": None, "written_at": AT.replace(minute=n)}
            for n in range(4)
        ],
    }


def test_a_document_is_woven_from_all_ten_tables() -> None:
    first, second = truth.documents(tables(), rated=True)
    assert first == {
        "id": 1,
        "title": "A",
        "released": "1999-01-01",
        "budget": "1.50",
        "rating": "x",
        "studio": {"name": "Meridian", "country": None},
        "director": {"name": "Ada", "born": "1900-02-03"},
        "genres": ["drama", "western"],
        "cast": [{"name": "Ada", "role": "first"}, {"name": "Jun", "role": "second"}],
        "awards": [{"festival": "F", "city": "C", "year": 2000, "prize": "P"}],
        "review_count": 4,
        "stars": 2.5,
        "latest": [{"by": "M", "stars": n + 1, "body": None, "written_at": f"2020-01-01T12:0{n}:00.000000Z"} for n in (3, 2, 1)],
    }
    assert (second["studio"], second["director"], second["genres"], second["review_count"], second["stars"]) == (None, None, [], 0, None)
    assert "rating" not in truth.documents(tables(), rated=False)[0]


def test_a_row_of_any_table_that_is_otherwise_makes_a_mismatch() -> None:
    expected = truth.documents(tables(), rated=True)
    assert compare_documents(expected, expected, "id").differing == 0
    for name, column in (
        ("studio", "name"), ("person", "name"), ("genre", "name"), ("movie", "title"), ("credit", "role"),
        ("festival", "city"), ("award", "prize"), ("member", "name"), ("review", "body"),
    ):  # fmt: skip
        other = tables()
        other[name] = [{**row, column: "otherwise"} for row in other[name]]
        assert compare_documents(expected, truth.documents(other, rated=True), "id").differing > 0, name
    assert compare_documents(expected, truth.documents({**tables(), "movie_genre": []}, rated=True), "id").differing == 1


def test_the_rows_are_the_same_at_every_run_and_their_keys_are_unique() -> None:
    made = data.rows(30)
    assert made == data.rows(30)
    for table in data.TABLES:
        keys = [row[: table.key.count(",") + 1] for row in made[table.name]]
        assert len(set(keys)) == len(keys), table.name
        assert len(keys) > 3


def test_a_time_is_written_as_progress_is() -> None:
    assert truth.progress("1795654265427643018.0000000002") == f"{1795654265427643018:016x}.00000002"
