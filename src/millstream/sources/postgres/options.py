"""The settings of a Postgres source, as a definition may give them. Light: no driver is loaded here."""

from __future__ import annotations

import re
import zlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from millstream.sources.names import TableName

Before = Literal["log", "keep"]


class Options(BaseModel):
    """`url` is a libpq URL or conninfo text. `slot` and `publication` default to `millstream_<source>`.

    What bounds memory: at most two batches of the stream wait to be taken, each of `batch_messages` messages or
    `batch_bytes`, whichever is first; a chunk of a backfill is `chunk_bytes` large. What begins with `read` or `lookup` is for
    pipelines and products with `read: source`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr = Field(description="Where the database is: postgresql://user:password@host:port/database. Take it from ${NAME}.")
    tables: tuple[str, ...] = Field(min_length=1, description="The tables to read, as schema.table. Each needs a primary key.")
    slot: str | None = Field(
        default=None, pattern=r"^[a-z0-9_]{1,63}$", description="The replication slot, made by `apply`; millstream_<source> if not given."
    )
    publication: str | None = Field(
        default=None, min_length=1, max_length=63, description="The publication, made by `apply`; millstream_<source> if not given."
    )
    heartbeat_s: float = Field(default=10.0, gt=0, description="Seconds without events after which a message moves the slot on.")
    batch_messages: int = Field(default=20_000, ge=1, description="Most messages of the stream in one batch.")
    batch_bytes: int = Field(default=8 << 20, ge=1, description="Most bytes of the stream in one batch.")
    chunk_bytes: int = Field(default=16 << 20, ge=1, description="About how many bytes a backfill reads at once.")
    before: Before | dict[str, Before] = Field(
        default="log",
        description="Where the old row of a change is from: `log` (REPLICA IDENTITY FULL), or `keep`: a copy of the rows beside the "
        "topic, so that the key alone need be in the log. For all tables, or by table.",
    )
    schema_backfill: Literal["start", "offer"] = Field(
        default="start",
        description="What follows where an added or converted column has values in old rows that the log does not say: "
        "`start` reads the table again beside the stream, `offer` waits until this option says `start`.",
    )

    read_url: SecretStr | None = Field(
        default=None, description="A streaming replica that `read: source` asks first. While it is behind, or not there, `url` is asked."
    )
    read_wait_ms: int = Field(default=500, ge=0, description="How long a query waits for the replica to have what it must show.")
    lookup_connections: int = Field(default=2, ge=1, le=64, description="Most queries of `read: source` at once, on each server.")
    lookup_timeout_ms: int = Field(default=10_000, ge=10, description="The longest that one such query may take.")
    lookup_slow_ms: int = Field(default=2_000, ge=1, description="Several that take longer: the source is left alone for a while.")
    lookup_keys: int = Field(default=5_000, ge=1, description="Most keys in one such query.")
    lookups_per_s: float = Field(default=200.0, gt=0, description="Most such queries a second.")

    @field_validator("tables", mode="before")
    @classmethod
    def _tables_are_whole(cls, tables: Any) -> Any:
        if isinstance(tables, tuple | list) and any(isinstance(t, dict) for t in tables):
            raise ValueError(
                "derived tables (table, as, select, where, outbox) are of CockroachDB; here a pipeline's step filters and selects"
            )
        return tables

    @field_validator("tables")
    @classmethod
    def _tables_differ(cls, tables: tuple[str, ...]) -> tuple[str, ...]:
        parsed = [TableName.parse(t) for t in tables]
        places = [(t.schema, t.table) for t in parsed]
        for i, place in enumerate(places):
            if place in places[:i]:
                raise ValueError(f"table {tables[i]} is named twice")
        return tables

    @model_validator(mode="after")
    def _tables_of_before_are_there(self) -> Options:
        if isinstance(self.before, dict) and (strange := sorted(set(self.before) - set(self.tables))):
            raise ValueError(f"before names {', '.join(strange)}, which is not among the tables")
        return self

    def keeps(self, table: str) -> bool:
        """Whether the connector keeps a copy of this table's rows."""
        return (self.before if isinstance(self.before, str) else self.before.get(table, "log")) == "keep"

    def names(self) -> tuple[TableName, ...]:
        return tuple(TableName.parse(t) for t in self.tables)

    def slot_of(self, source: str) -> str:
        return self.slot or default_name(source)

    def publication_of(self, source: str) -> str:
        return self.publication or default_name(source)


def default_name(source: str) -> str:
    """`millstream_<source>` in the letters and length that a slot's name may have; two sources never share one."""
    plain = re.sub(r"[^a-z0-9_]", "_", source.lower())
    name = f"millstream_{plain}"
    if plain == source and len(name) <= 63:
        return name
    return f"{name[:54]}_{zlib.crc32(source.encode()):08x}"
