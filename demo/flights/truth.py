"""The judge: Postgres computes the same queries over both databases, and every row and column is held against that.

Postgres reads the other database through postgres_fdw, so that no row passes through us on its way into the truth.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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
