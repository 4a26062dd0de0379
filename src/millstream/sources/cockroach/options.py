"""The settings of a CockroachDB source, as a definition may give them. Light: no driver is loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from millstream.sources import filters
from millstream.sources.names import TableName


class DerivedTable(BaseModel):
    """Rows and columns of a table as a topic of their own."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    table: str = Field(description="The table, as schema.table.")
    called: str | None = Field(
        default=None, alias="as", description="What the topic is called behind the source's name; else as the table."
    )
    select: tuple[str, ...] | None = Field(default=None, min_length=1, description="The columns; those of the key are added. Else all.")
    where: str | None = Field(default=None, description="A condition over the table's columns: a row that leaves it is deleted.")
    outbox: bool = Field(default=False, description="Deletes are not told: the table's rows are messages, taken away once they were sent.")

    @property
    def name(self) -> str:
        return self.called or self.table

    @field_validator("select")
    @classmethod
    def _columns_differ(cls, select: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if select is not None and (twice := [c for i, c in enumerate(select) if c in select[:i]]):
            raise ValueError(f"column {twice[0]} is selected twice")
        return select

    @field_validator("where")
    @classmethod
    def _can_be_read(cls, where: str | None) -> str | None:
        if where is not None:
            filters.parse(where)
        return where


class Options(BaseModel):
    """`url` is a libpq URL or conninfo text; its database is where the tables are.

    What bounds memory: pieces of the feeds that wait to be taken have `queue_bytes` together, each of at most `batch_messages` messages
    or about `batch_bytes`, whichever is first; a chunk of a backfill is about `chunk_bytes` large.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr = Field(
        description="Where the database is: postgresql://user:password@host:26257/database?sslmode=verify-full. Take it from ${NAME}."
    )
    tables: tuple[str | DerivedTable, ...] = Field(
        min_length=1,
        description="The tables to read, as schema.table, or table where the schema is public; topics and pipelines name them as they are "
        "written here. Or {table, as, select, where, outbox}: a [derived table](../how-to/derive-tables.md).",
    )
    feeds: Literal["one", "per_table"] = Field(
        default="one",
        description="How many changefeeds the server runs for the source: `one` for all tables, or one `per_table`, where a table that "
        "lags must not hold up the others' places.",
    )
    schema_backfill: Literal["start", "offer"] = Field(
        default="start",
        description="What follows where a converted column has values in old rows that no event says: "
        "`start` reads the table again beside the stream, `offer` waits until this option says `start`.",
    )
    on_loss: Literal["reconcile", "offer"] = Field(
        default="reconcile",
        description="What follows where the server no longer has what a table's place needs (away for longer than the garbage collection's "
        "time, or TRUNCATE): `reconcile` compares the table with its topic, deletes of rows that are gone included; `offer` waits.",
    )
    resolved_every_s: float = Field(
        default=1.0, ge=0.5, le=60, description="How often a feed is asked to say up to where it is complete; positions move that often."
    )
    resolved_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Seconds without such a word after which a feed is opened again. Schema changes silence feeds for tens of seconds.",
    )
    batch_messages: int = Field(default=20_000, ge=1, description="Most messages of a feed in one batch.")
    batch_bytes: int = Field(default=8 << 20, ge=1, description="Most bytes of a feed in one batch.")
    queue_bytes: int = Field(default=32 << 20, ge=1, description="Bytes of all feeds that wait here before the server is made to wait.")
    chunk_bytes: int = Field(default=16 << 20, ge=1, description="About how many bytes a backfill reads at once.")

    @field_validator("tables", mode="before")
    @classmethod
    def _derived_are_read(cls, tables: Any) -> Any:
        """By themselves, so that what is wrong with one is told once, and of which."""
        if not isinstance(tables, tuple | list):
            return tables
        read: list[Any] = []
        for given in tables:
            try:
                read.append(DerivedTable.model_validate(given) if isinstance(given, Mapping) else given)
            except ValidationError as error:
                found = error.errors(include_url=False, include_context=False, include_input=False)
                said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in found)
                raise ValueError(f"{given.get('as') or given.get('table')}: {said}") from None
        return tuple(read)

    @field_validator("tables")
    @classmethod
    def _tables_differ(cls, tables: tuple[str | DerivedTable, ...]) -> tuple[str | DerivedTable, ...]:
        """A table comes once, and what is derived from it any number of times, each under its own name."""
        plain, called = set(), set()
        for given in tables:
            table = given if isinstance(given, str) else given.table
            name = TableName.parse(table)
            place = (name.schema, name.table)
            if isinstance(given, str) and place in plain:
                raise ValueError(f"table {table} is named twice")
            if (topic := table if isinstance(given, str) else given.name) in called:
                raise ValueError(f"{topic} is named twice: give one of them another name, `as`")
            called.add(topic)
            plain |= {place} if isinstance(given, str) else set()
        return tables

    @property
    def derived(self) -> dict[str, DerivedTable]:
        """By name, every table: one that is no derived one is all of its own rows."""
        given = (DerivedTable(table=t) if isinstance(t, str) else t for t in self.tables)
        return {t.name: t for t in given}

    def names(self) -> tuple[TableName, ...]:
        return tuple(replace(TableName.parse(t.table), written=name) for name, t in self.derived.items())
