"""A small project on disk, and the topics that it may read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from millstream.components import Component
from millstream.events.types import Field as Column
from millstream.events.types import RowSchema, Type
from millstream.pipelines.plan import Input


class SourceOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: SecretStr
    tables: tuple[str, ...]
    heartbeat_s: float = Field(default=10.0, gt=0)

    @field_validator("url")
    @classmethod
    def _url(cls, value: SecretStr) -> SecretStr:
        if "://" not in value.get_secret_value():
            raise ValueError(f"{value.get_secret_value()} is no URL")  # as careless as an option's author may be
        return value


class FileOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    file: str = Field(min_length=1)


SOURCES = (Component("postgres", SourceOptions, "nowhere:open"),)
SINKS = (Component("jsonl", FileOptions, "nowhere:open"), Component("search", FileOptions, "nowhere:open"))


def schema(key: str, columns: str) -> RowSchema:
    """`columns`: "id int64, price decimal(10,2)"."""
    fields = []
    for i, column in enumerate(columns.split("; "), 1):
        name, _, kind = column.partition(" ")
        if kind.startswith("decimal"):
            precision, scale = kind[8:-1].split(",")
            fields.append(Column(name, Type("decimal", int(precision), int(scale)), i))
        else:
            fields.append(Column(name, Type(kind), i))  # type: ignore[arg-type]
    return RowSchema(tuple(fields), tuple(key.split(", ")))


TOPICS: Mapping[str, RowSchema] = {
    "studio.public.movie": schema(
        "id", "id int64; title text; year int32; director_id int64; price decimal(10,2); made date; rating float64"
    ),
    "studio.public.credit": schema("movie_id, number", "movie_id int64; number int32; person_id int64; role text"),
    "studio.public.odd": schema("id", "id int64; Id text"),
    "studio.public.wide": schema("id", "id int64; n decimal(50,2)"),
    "hr.public.person": schema("id", "id int64; name text; boss int64; code uuid; badge numeric; extra json; small int32"),
    "hr.public.reading": schema("at, value", "at timestamp; value float64; note text"),
}


@pytest.fixture
def known() -> dict[str, Input]:
    return {name: Input(name, s, i, "whole") for i, (name, s) in enumerate(TOPICS.items(), 1)}


@pytest.fixture
def project(tmp_path: Path) -> Callable[[Mapping[str, str]], Path]:
    """Writes files (path → text) and gives the folder; mesh.yaml is there unless given."""

    def write(files: Mapping[str, str]) -> Path:
        for name, text in {"mesh.yaml": "mesh: demo\n", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write
