"""The judge: Postgres computes the same queries over both databases, and every row and column is held against that.

Postgres reads the other database through postgres_fdw, so that no row passes through us on its way into the truth.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.csv
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

ARROW_OF = {
    "boolean": pa.bool_(),
    "smallint": pa.int32(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "double precision": pa.float64(),
    "text": pa.string(),
    "date": pa.date32(),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}


@dataclass(frozen=True)
class Verdict:
    """`rows` were found, `differing` of them, or of those that should have been found, are wrong; `examples` shows a few."""

    rows: int
    differing: int
    examples: tuple[str, ...]


def truth(url_of: Callable[[str], str], query: str) -> pa.Table:
    """What Postgres itself answers to a step's SQL, with the types its columns have in Postgres."""
    with _judge(url_of, query) as connection:
        types = dict(
            connection.execute(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'truth'::regclass ORDER BY attnum"
            ).fetchall()
        )
        text = io.BytesIO()
        with connection.cursor() as cursor, cursor.copy("COPY (SELECT * FROM truth) TO STDOUT (FORMAT csv)") as copy:
            for piece in copy:
                text.write(piece)
    text.seek(0)
    return pyarrow.csv.read_csv(
        text,
        read_options=pyarrow.csv.ReadOptions(column_names=list(types)),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: arrow_type(kind) for name, kind in types.items()},
            # An empty string comes quoted, null comes as nothing at all.
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        ),
    )


def true_documents(url_of: Callable[[str], str], query: str) -> list[dict[str, Any]]:
    """What Postgres itself answers, a document a row."""
    with _judge(url_of, query) as connection:
        return [document for (document,) in connection.execute("SELECT to_jsonb(t) FROM truth t")]


@contextmanager
def _judge(url_of: Callable[[str], str], query: str) -> Iterator[psycopg.Connection]:
    """A connection with a view `truth` that answers the query; nothing of it stays."""
    with psycopg.connect(url_of("operations")) as connection:
        _link(connection, url_of("reference"))
        # A step names tables as source.schema.table. This database is `operations`; the other's tables stand in a schema of that name.
        connection.execute(f"CREATE TEMP VIEW truth AS {query.replace('reference.public.', 'reference.')}")
        connection.execute("SET TIME ZONE 'UTC'")
        yield connection
        connection.rollback()


def arrow_type(kind: str) -> pa.DataType:
    """Of a Postgres type as format_type writes it."""
    if kind.startswith("numeric("):
        precision, scale = kind.removeprefix("numeric(").removesuffix(")").split(",")
        return pa.decimal128(int(precision), int(scale))
    return ARROW_OF[kind]


def _link(connection: psycopg.Connection, url: str) -> None:
    """The other database's tables as foreign tables in schema `reference`, until this transaction is rolled back."""
    target = conninfo_to_dict(url)
    server = {"host": target["host"], "port": target["port"], "dbname": target["dbname"]}
    user = {"user": target["user"]} | ({"password": target["password"]} if "password" in target else {"password_required": "false"})

    def options(of: Mapping[str, Any]) -> sql.Composable:
        return sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(k), sql.Literal(str(v))) for k, v in of.items())

    connection.execute("CREATE EXTENSION IF NOT EXISTS postgres_fdw")
    connection.execute(sql.SQL("CREATE SERVER reference FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({})").format(options(server)))
    connection.execute(sql.SQL("CREATE USER MAPPING FOR CURRENT_USER SERVER reference OPTIONS ({})").format(options(user)))
    connection.execute("CREATE SCHEMA reference")
    connection.execute("IMPORT FOREIGN SCHEMA public FROM SERVER reference INTO reference")


def from_json(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Documents as columns of the truth's types. A value that does not fit its type exactly is an error, not a near miss."""
    rows = list(rows)
    return pa.table([pa.array([_read(row.get(f.name), f.type) for row in rows], f.type) for f in schema], schema=schema)


def _read(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_decimal(kind):
        return Decimal(str(value))
    if pa.types.is_timestamp(kind):
        return datetime.fromisoformat(value)
    # Arrow would cut 1.5 down to 1.
    if pa.types.is_integer(kind) and type(value) is not int:
        raise TypeError(f"{value!r} is not an integer")
    return value


def compare(expected: pa.Table, actual: pa.Table, key: str) -> Verdict:
    """Every row of either side that the other does not have just so. A key found twice is wrong once more."""
    missing = [f.name for f in expected.schema if f.name not in actual.column_names]
    if missing:
        return Verdict(actual.num_rows, max(expected.num_rows, 1), (f"columns {', '.join(missing)} are not there",))
    wrong = [f"{f.name} is {actual.schema.field(f.name).type}, not {f.type}" for f in expected.schema if not _same(f, actual.schema)]
    if wrong:
        return Verdict(actual.num_rows, max(expected.num_rows, 1), tuple(wrong))
    database = duckdb.connect()
    database.register("expected", expected)
    database.register("actual", actual.select(expected.column_names))
    unequal = " OR ".join(f'e."{f.name}" IS DISTINCT FROM a."{f.name}"' for f in expected.schema)
    join = f'FROM expected e FULL JOIN actual a ON e."{key}" = a."{key}" WHERE {unequal}'
    (differing,) = database.execute(f"SELECT count(*) {join}").fetchone() or (0,)
    (twice,) = database.execute(f'SELECT count(*) - count(DISTINCT "{key}") FROM actual').fetchone() or (0,)
    examples = tuple(
        f"expected {e}, found {a}" for e, a in database.execute(f"SELECT to_json(e)::text, to_json(a)::text {join} LIMIT 3").fetchall()
    )
    return Verdict(actual.num_rows, differing + twice, examples)


def compare_documents(expected: Iterable[Mapping[str, Any]], found: Iterable[Mapping[str, Any]], key: str) -> Verdict:
    """Every document of either side that the other does not have just so, lists in their order. One found twice is wrong once more."""
    wanted, rows = {d[key]: dict(d) for d in expected}, list(found)
    got = {d[key]: {k: v for k, v in d.items() if k != "_seen"} for d in rows}  # its stamp is Millstream's own
    wrong = [k for k in wanted.keys() | got.keys() if wanted.get(k) != got.get(k)]
    examples = tuple(f"expected {wanted.get(k)}, found {got.get(k)}" for k in sorted(wrong)[:3])
    return Verdict(len(rows), len(wrong) + len(rows) - len(got), examples)


def _same(expected: pa.Field, actual: pa.Schema) -> bool:
    kind = actual.field(expected.name).type
    return kind == expected.type or (pa.types.is_string(expected.type) and pa.types.is_large_string(kind))
