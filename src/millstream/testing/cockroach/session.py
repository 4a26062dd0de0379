"""A client's session: SQL text in, results in text form out, transactions between. One thread uses it at a time.

What is asked of pg_catalog, crdb_internal or a changefeed is not here: the server answers that before it asks a session.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from millstream.testing.cockroach import calendar, definitions, grammar_schema, queries, schema_changes, statements, types, values
from millstream.testing.cockroach.descriptors import Descriptor
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.expressions import Compiler, Env, no_columns
from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.store import Store
from millstream.testing.cockroach.syntax import (
    Control,
    Delete,
    Expression,
    Insert,
    Name,
    Select,
    Set,
    Show,
    Statement,
    Update,
    Use,
    Values,
)  # fmt: skip
from millstream.testing.cockroach.tables import Table
from millstream.testing.cockroach.tokens import split
from millstream.testing.cockroach.transactions import Transaction
from millstream.testing.cockroach.types import STRING, SqlType

_PLANS_MAX = 2000
_PRIVILEGE = {Select: "select", Insert: "insert", Update: "update", Delete: "delete"}


@dataclass
class Result:
    """`columns` are (name, oid), [] where there are no rows; `rows` hold text as the wire has it, NULL is None; `tag` is the command's."""

    columns: list[tuple[str, int]] = field(default_factory=list)
    rows: list[tuple[str | None, ...]] = field(default_factory=list)
    tag: str = ""


@dataclass(frozen=True)
class Plan:
    """What a text was compiled to, for the tables as they were."""

    statement: Statement
    catalogue: int
    compiled: Any


class Session:
    """`status` is the wire's: I idle, T in a transaction, E in one that failed."""

    def __init__(self, store: Store, user: str = "root", database: str = "defaultdb") -> None:
        if user not in store.users:
            raise SqlError("28000", f"password authentication failed for user {user}")
        self.store, self.user, self.database = store, user, database
        self.settings: dict[str, str] = {"application_name": "", "timezone": "UTC", "extra_float_digits": "0"}
        self.status = "I"
        self._transaction: Transaction | None = None
        self._plans: OrderedDict[tuple[str, str], Plan] = OrderedDict()

    def execute(self, sql: str, params: Sequence[str | None] = ()) -> Result:
        """Runs one text, of several statements joined by `;` too, and gives the last one's result. Raises SqlError."""
        return self.run(sql, params)[-1]

    def run(self, sql: str, params: Sequence[str | None] = ()) -> list[Result]:
        """A result for each statement. Several without BEGIN are one transaction, as 26.1 has it; in 22.1 each is its own."""
        texts = split(sql) if ";" in sql else [sql]
        if not texts:
            return [Result()]
        if len(texts) == 1:
            return [self._one(texts[0], tuple(params))]
        plans = [self._plan(text) for text in texts]
        whole = self.store.version != "22.1" and self.status == "I" and all(
            isinstance(p.statement, Select | Insert | Update | Delete) for p in plans
        )  # fmt: skip
        if whole:
            self._control(Control("begin"))
        try:
            out = [self._one(text, tuple(params)) for text in texts]
        except SqlError:
            if whole:
                self._control(Control("rollback"))
            raise
        if whole:
            self._control(Control("commit"))
        return out

    def close(self) -> None:
        """Gives up what is open."""
        if self._transaction is not None:
            self._transaction.rollback()
            self._transaction = None
        self.status = "I"

    # ---- one statement

    def _plan(self, sql: str) -> Plan:
        at = (sql, self.database)
        plan = self._plans.get(at)
        if plan is None:
            plan = Plan(grammar_schema.parse(sql), -1, None)
            self._plans[at] = plan
            if len(self._plans) > _PLANS_MAX:
                self._plans.popitem(last=False)
        return plan

    def _one(self, sql: str, params: tuple[str | None, ...]) -> Result:
        try:
            statement = self._plan(sql).statement
            if isinstance(statement, Control):
                return self._control(statement)
            if self.status == "E":
                raise SqlError("25P02", "current transaction is aborted, commands ignored until end of transaction block")
            with self.store.lock:
                return self._run(sql, statement, params)
        except SqlError:
            self._failed()
            raise
        except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as wrong:
            # What no check foresaw is a mistake of the stand-in's, and ends the statement as one of the server's would.
            self._failed()
            raise SqlError("XX000", f"internal error: {wrong!r}") from wrong

    def _failed(self) -> None:
        if self._transaction is not None:
            self.status = "E"

    def _run(self, sql: str, statement: Statement, params: tuple[str | None, ...]) -> Result:
        if isinstance(statement, Select | Insert | Update | Delete | Values):
            return self._in_transaction(sql, statement, params)
        if isinstance(statement, Set):
            return self._set(statement)
        if isinstance(statement, Show):
            return self._show(statement)
        if isinstance(statement, Use):
            if statement.database not in self.store.databases:
                raise SqlError("3D000", f'database "{statement.database}" does not exist')
            self.database = statement.database
            return Result(tag="SET")
        # As autocommit_before_ddl has it: a schema change ends the transaction it stands in.
        if self._transaction is not None:
            self._control(Control("commit"))
        return self._schema_change(statement)

    def _schema_change(self, statement: Statement) -> Result:
        columns, rows, tag = schema_changes.run(self.store, self.user, self.database, self.settings, statement)
        return Result([(name, kind.oid) for name, kind in columns], rows, tag)

    def _control(self, of: Control) -> Result:
        if of.what == "begin":
            if self._transaction is not None:
                raise SqlError("25001", "there is already a transaction in progress")
            self._transaction = Transaction(self.store, as_of=self._time(of.as_of) if of.as_of is not None else None)
            self.status = "T"
            return Result(tag="BEGIN")
        if of.name:
            return self._savepoint(of)
        transaction, failed, self._transaction, self.status = self._transaction, self.status == "E", None, "I"
        if transaction is None:
            if of.what == "rollback":
                return Result(tag="ROLLBACK")
            raise SqlError("25P01", "there is no transaction in progress")
        with self.store.lock:
            if of.what == "commit" and not failed:
                transaction.commit()
                return Result(tag="COMMIT")
            transaction.rollback()
            return Result(tag="ROLLBACK")

    def _savepoint(self, of: Control) -> Result:
        transaction = self._transaction
        if transaction is None:
            raise SqlError("25P01", "there is no transaction in progress")
        if self.status == "E" and of.what != "rollback to":
            raise SqlError("25P02", "current transaction is aborted, commands ignored until end of transaction block")
        with self.store.lock:
            if of.what == "savepoint":
                transaction.mark(of.name)
            else:
                transaction.back_to(of.name, release=of.what == "release")
        self.status = "T"
        return Result(tag={"rollback to": "ROLLBACK"}.get(of.what, of.what.upper()))

    def _in_transaction(self, sql: str, statement: Statement, params: tuple[str | None, ...]) -> Result:
        as_of = self._time(statement.as_of) if isinstance(statement, Select) and statement.as_of is not None else None
        if as_of is not None:
            self.store.readable(as_of)
        own = self._transaction is None or as_of is not None
        transaction = Transaction(self.store, as_of=as_of) if own or self._transaction is None else self._transaction
        try:
            if isinstance(statement, Insert | Update | Delete):
                transaction.for_writing()
                transaction.hidden = self.settings.get("disable_changefeed_replication") in ("true", "on")
            elif isinstance(statement, Select) and statement.lock and as_of is None:
                transaction.for_writing()
            result = self._answer(sql, statement, transaction, params)
        except BaseException:
            if own:
                transaction.rollback()
            raise
        if own:
            transaction.commit()
        return result

    def _answer(self, sql: str, statement: Statement, transaction: Transaction, params: tuple[str | None, ...]) -> Result:
        read = transaction.read_at
        env = Env(self.store.version, params, read, read.wall // 1000, self.user, self.database, self.store.unique_row_id,
                  self.store.random.random)  # fmt: skip
        compiled = self._compiled(sql, statement, transaction)
        if isinstance(compiled, queries.Query):
            rows = list(compiled.rows(transaction, env))
            return Result(_columns(compiled.columns), self._texts(rows, compiled.columns), f"SELECT {len(rows)}")
        rows, count = compiled.run(transaction, env)
        return Result(_columns(compiled.columns), self._texts(rows, compiled.columns), f"{compiled.word} {count}")

    def _texts(self, rows: list[tuple[Any, ...]], columns: queries.Output) -> list[tuple[str | None, ...]]:
        kinds, version = [kind for _, kind in columns], self.store.version
        return [tuple([None if v is None else values.text(v, k, version) for v, k in zip(row, kinds, strict=True)]) for row in rows]

    def _compiled(self, sql: str, statement: Statement, transaction: Transaction) -> Any:
        plan = self._plans.get((sql, self.database))
        historical = transaction.as_of is not None
        if plan is not None and plan.compiled is not None and plan.catalogue == self.store.catalogue_version and not historical:
            return plan.compiled

        def find(name: Name) -> tuple[Table, Descriptor]:
            return self._find(name, transaction, _PRIVILEGE.get(type(statement), "select"))

        version = self.store.version
        compiled: Any
        if isinstance(statement, Select):
            compiled = queries.compile_select(statement, find, version, self._named)
        elif isinstance(statement, Insert):
            compiled = statements.compile_insert(statement, find, version, self._named)
        elif isinstance(statement, Update):
            compiled = statements.compile_update(statement, find, version, self._named)
        elif isinstance(statement, Delete):
            compiled = statements.compile_delete(statement, find, version, self._named)
        else:
            raise SqlError("0A000", "the stand-in does not model VALUES alone")
        if not historical:
            self._plans[sql, self.database] = Plan(statement, self.store.catalogue_version, compiled)
        return compiled

    def _find(self, name: Name, transaction: Transaction, privilege: str) -> tuple[Table, Descriptor]:
        found: Descriptor | None
        if transaction.as_of is not None:
            quoted = ".".join('"' + part.replace('"', '""') + '"' for part in name)
            found = self.store.table(quoted, transaction.as_of, self.database)
            table = self.store.tables[found.id] if found is not None else None
        else:
            table = self.store.find(name, self.database)
            found = table.now if table is not None else None
        if table is None or found is None:
            raise SqlError("42P01", f'relation "{".".join(name)}" does not exist')
        if found.kind != "table":
            raise SqlError("42809", f'the stand-in reads no {found.kind}s: "{found.name}"')
        if not self.store.may(self.user, found.id, privilege):
            raise SqlError("42501", f"user {self.user} does not have {privilege.upper()} privilege on relation {found.name}")
        return table, found

    def _named(self, name: Name) -> SqlType:
        return definitions.named_type(self.store, name, self.database)

    # ---- times and settings

    def _time(self, of: Expression) -> Hlc:
        """What AS OF SYSTEM TIME says: an HLC, nanoseconds, a timestamp, or an interval back from now."""
        compiled = Compiler(no_columns, self.store.version, self._named).compile(of)
        value = compiled.run((), Env(self.store.version))
        text = str(value)
        if compiled.type.kind == "interval":
            return Hlc(calendar.add_interval(self.store.now().wall // 1000, value) * 1000)
        if re.fullmatch(r"\d+(\.\d{1,10})?\??", text):
            at = Hlc.parse(text)
        elif re.match(r"\d{4}-\d\d-\d\d", text):
            at = Hlc(values.parse(text, types.TIMESTAMPTZ) * 1000)
        else:
            back = values.parse(text, types.INTERVAL)
            at = Hlc(calendar.add_interval(self.store.now().wall // 1000, back) * 1000)
        now = self.store.now()
        if at > now:
            raise SqlError("22023", f"AS OF SYSTEM TIME: cannot specify timestamp in the future ({at} > {now})")
        return at

    def _set(self, of: Set) -> Result:
        if of.what == "cluster":
            if "admin" not in self.store.roles_of(self.user):
                raise SqlError("42501", f"only users with MODIFYCLUSTERSETTING are allowed to set cluster setting '{of.name}'")
            self.store.settings[of.name] = of.value
            return Result(tag="SET CLUSTER SETTING")
        self.settings[of.name] = of.value
        if of.name == "database":
            self.database = of.value
        return Result(tag="SET")

    def _show(self, of: Show) -> Result:
        if of.what == "create":
            table = self.store.find(of.table, self.database)
            if table is None:
                raise SqlError("42P01", f'relation "{".".join(of.table)}" does not exist')
            texts = (".".join(of.table), definitions.create_statement(table.now))
            return Result([("table_name", STRING.oid), ("create_statement", STRING.oid)], [texts], "SELECT 1")
        held: str | None
        if of.what == "cluster":
            if not ({"admin"} & self.store.roles_of(self.user)):
                raise SqlError("42501", "only users with either MODIFYCLUSTERSETTING or VIEWCLUSTERSETTING privileges are allowed to "
                               "show cluster settings")  # fmt: skip
            held = self.store.settings.get(of.name)
            kind = types.BOOL if held in ("true", "false") else STRING
            if held is not None and kind is types.BOOL:
                held = held[0]
        else:
            shown = {"database": self.database, "server_version": "13.0.0", "session_user": self.user, "is_superuser": "on"}
            held, kind = shown.get(of.name, self.settings.get(of.name)), STRING
        if held is None:
            raise SqlError("42704", f"unknown {'cluster setting' if of.what == 'cluster' else 'variable'}: {of.name!r}")
        return Result([(of.name, kind.oid)], [(held,)], "SELECT 1")


def _columns(of: queries.Output) -> list[tuple[str, int]]:
    return [(name, kind.oid) for name, kind in of]
