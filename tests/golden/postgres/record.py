"""Records what a real server sends, for `test_golden_pgoutput`. Run by hand: python tests/golden/postgres/record.py

A recording is the messages of a slot, each after its length (four bytes, big-endian). What they must be read as stands
beside it as JSON: written by this script too, so look at the difference before it is committed.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from millstream.testing.postgres_server import PostgresServer

HERE = Path(__file__).parent

CASES = {
    "operations": [
        "CREATE TABLE a (id integer PRIMARY KEY, v text, n numeric(8,2)); ALTER TABLE a REPLICA IDENTITY FULL",
        "CREATE TABLE b (k text PRIMARY KEY, at timestamptz); ALTER TABLE b REPLICA IDENTITY FULL",
        "--",
        "INSERT INTO a VALUES (1, 'one', 1.5), (2, NULL, -2), (3, 'é✓ longer than twelve bytes', 3)",
        "BEGIN; INSERT INTO b VALUES ('x', '2024-01-02 03:04:05.678Z'); UPDATE a SET v = 'uno' WHERE id = 1; UPDATE b SET k = 'y'; COMMIT",
        "BEGIN; INSERT INTO a VALUES (9, 'never', 9); ROLLBACK",
        "SELECT pg_logical_emit_message(false, 'millstream.mark', 'here')",
        "SELECT pg_logical_emit_message(true, 'app', 'not for us')",
        "UPDATE a SET id = id + 10 WHERE id < 3",
        "DELETE FROM a; DELETE FROM b",
    ],
    "types": [
        """CREATE TABLE t (id bigint PRIMARY KEY, flag boolean, small smallint, r real, d double precision, raw bytea, free numeric,
            day date, tod time, ts timestamp, u uuid, j jsonb, list integer[])""",
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "--",
        r"""INSERT INTO t VALUES (1, true, -5, 1.1, 'Infinity', '\x00ff5c', 1.500, '2024-02-29', '23:59:59.999999', '0001-01-01 00:00:00',
            'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": "\"\\"}', '{1,NULL,3}')""",
        "INSERT INTO t (id, day, tod, ts, free) VALUES (2, 'infinity', '24:00:00', '0044-03-15 00:00:00 BC', 'NaN')",
        "UPDATE t SET flag = false, day = '9999-12-31' WHERE id = 2",
    ],
    "schema": [
        "CREATE TABLE a (id integer PRIMARY KEY, v text); ALTER TABLE a REPLICA IDENTITY FULL",
        "--",
        "INSERT INTO a VALUES (1, 'one')",
        "ALTER TABLE a ADD n integer; INSERT INTO a VALUES (2, 'two', 2)",
        "ALTER TABLE a RENAME v TO words; UPDATE a SET n = 1 WHERE id = 1",
        "ALTER TABLE a ALTER n TYPE bigint; ALTER TABLE a DROP words; DELETE FROM a WHERE id = 2",
    ],
    "toast_truncate": [
        "CREATE TABLE a (id integer PRIMARY KEY, v text, big text); ALTER TABLE a ALTER big SET STORAGE EXTERNAL",
        "ALTER TABLE a REPLICA IDENTITY FULL",
        "--",
        "INSERT INTO a VALUES (1, 'x', repeat('y', 2500))",
        "UPDATE a SET v = 'changed'",
        "BEGIN; UPDATE a SET id = 2; TRUNCATE a; COMMIT",
        "INSERT INTO a VALUES (3, 'never told', NULL)",
    ],
}


def record(server: PostgresServer, case: str, statements: list[str]) -> list[bytes]:
    server.create_database(case)
    made = statements.index("--")
    with server.connect(case) as connection:
        for statement in statements[:made]:
            connection.execute(statement.encode())
        connection.execute(b"CREATE PUBLICATION p FOR ALL TABLES")
        connection.execute(f"SELECT pg_create_logical_replication_slot('{case}', 'pgoutput')".encode())
        for statement in statements[made + 1 :]:
            # One at a time, so that each is a transaction of its own where it does not say otherwise.
            for part in statement.split("; "):
                connection.execute(part.encode())
        found = connection.execute(
            f"""SELECT data FROM pg_logical_slot_get_binary_changes('{case}', NULL, NULL,
                'proto_version', '1', 'publication_names', 'p', 'messages', 'true')""".encode()
        )
        return [bytes(row[0]) for row in found]


def main() -> None:
    sys.path.insert(0, str(HERE))
    from golden_reader import expected_text

    settings = {"TimeZone": "UTC", "DateStyle": "ISO", "bytea_output": "hex", "extra_float_digits": "3"}
    with PostgresServer(durable=False, settings=settings) as server:
        version = server.execute("SHOW server_version")[0][0].split()[0]
        for case, statements in CASES.items():
            messages = record(server, case, statements)
            path = HERE / f"pg{version}_{case}.bin"
            path.write_bytes(b"".join(struct.pack(">I", len(m)) + m for m in messages))
            path.with_suffix(".json").write_text(expected_text(messages))


if __name__ == "__main__":
    main()
