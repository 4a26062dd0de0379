"""The settings of a CockroachDB source, as a definition may give them. Light: no driver is loaded here."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from millstream.sources.cockroach.names import TableName


class Options(BaseModel):
    """`url` is a libpq URL or conninfo text; its database is where the tables are.

    What bounds memory: pieces of the feeds that wait to be taken have `queue_bytes` together, each of at most `batch_messages` messages
    or about `batch_bytes`, whichever is first; a chunk of a backfill is about `chunk_bytes` large.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr = Field(
        description="Where the database is: postgresql://user:password@host:26257/database?sslmode=verify-full. Take it from ${NAME}."
    )
    tables: tuple[str, ...] = Field(
        min_length=1,
        description="The tables to read, as schema.table, or table where the schema is public; "
        "topics and pipelines name them as they are written here.",
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

    @field_validator("tables")
    @classmethod
    def _tables_differ(cls, tables: tuple[str, ...]) -> tuple[str, ...]:
        parsed = [TableName.parse(t) for t in tables]
        places = [(t.schema, t.table) for t in parsed]
        for i, place in enumerate(places):
            if place in places[:i]:
                raise ValueError(f"table {tables[i]} is named twice")
        return tables

    def names(self) -> tuple[TableName, ...]:
        return tuple(TableName.parse(t) for t in self.tables)
