"""ALTER TABLE, as it will be run one day → the row schema that the table will have then. No database is asked.

What a statement says of anything but columns, nulls and the primary key changes no row schema and is passed over, where it is known to
be that; what cannot be understood is refused. Reference: PostgreSQL 18, "ALTER TABLE".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from millstream.errors import Refused
from millstream.events.fills import fill_value
from millstream.events.types import UNKNOWN, Constant, Field, Fill, RowSchema, Type
from millstream.sources.postgres.columns import NUMERIC, type_of

_NO_TYPMOD, _REAL, _DOUBLE = -1, 700, 701
_OIDS: Mapping[str, int] = {
    "BOOLEAN": 16, "VARBINARY": 17, "BIGINT": 20, "SMALLINT": 21, "INT": 23, "OID": 26, "JSON": 114, "JSONB": 3802, "FLOAT": _REAL,
    "DOUBLE": _DOUBLE, "DATE": 1082, "TIME": 1083, "TIMESTAMP": 1114, "TIMESTAMPTZ": 1184, "UUID": 2950, "DECIMAL": NUMERIC,
    "SMALLSERIAL": 21, "SERIAL": 23, "BIGSERIAL": 20,
}  # fmt: skip
_TEXTS = ("citext", "tsvector", "tsquery")  # which the parser does not know
_COUNTED = ("SMALLSERIAL", "SERIAL", "BIGSERIAL")
_CURE = "give what changes columns, nulls or the primary key: ALTER TABLE … ADD, DROP, RENAME, ALTER COLUMN, ADD PRIMARY KEY"


def altered(sql: str, now: RowSchema, table: str, history: Sequence[RowSchema] = ()) -> RowSchema:
    """What `now` becomes by one or more statements ALTER TABLE on `table` ("public.movie").

    A column that is added gets an id that no version in `history` had. Raises Refused("bad_alter") with what was not understood.
    """
    schema = now
    for statement in _statements(sql):
        if not isinstance(statement, exp.Alter) or statement.args.get("kind") != "TABLE":
            _refuse(f"this is not understood: {_short(sql)}")
        named = [p.name if p.args.get("quoted") else p.name.lower() for p in statement.this.parts]
        if named != table.split(".")[-len(named) :]:
            _refuse(f"it alters {'.'.join(named)}, not {table}", f"name the table: ALTER TABLE {table} …")
        schema = _Altering(schema, [now, *history]).by(statement)
    return schema


def _statements(sql: str) -> list[exp.Expression]:
    try:
        with _quiet():
            found = [s for s in sqlglot.parse(sql, dialect="postgres") if s is not None]
    except SqlglotError as e:
        _refuse(f"it cannot be read: {str(e).splitlines()[0]}")
    return found or _refuse("there is no SQL here")


@contextmanager
def _quiet() -> Iterator[None]:
    """The parser warns of what it does not understand, which is refused here."""
    log = logging.getLogger("sqlglot")
    was, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was


def _refuse(message: str, cure: str = _CURE) -> NoReturn:
    raise Refused(message, code="bad_alter", cure=cure)


def _short(sql: str) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= 120 else text[:117] + "…"


def _name(identifier: exp.Expression) -> str:
    """A name as Postgres keeps it: in small letters, unless it is quoted."""
    inner = identifier.this if isinstance(identifier, exp.Column) else identifier
    return str(inner.name if inner.args.get("quoted") else inner.name.lower())


class _Altering:
    """One statement, action by action."""

    def __init__(self, schema: RowSchema, history: Sequence[RowSchema]) -> None:
        self._fields, self._key = list(schema.fields), schema.key
        self._free = max((f.id for s in [*history, schema] for f in s.fields), default=0) + 1

    def by(self, statement: exp.Alter) -> RowSchema:
        actions: Mapping[type, Callable[[exp.Expression], None]] = {
            exp.ColumnDef: self._add, exp.Drop: self._drop, exp.RenameColumn: lambda a: self._rename(a.this, a.args["to"]),
            exp.AlterColumn: self._alter, exp.AddConstraint: self._constrain,
        }  # fmt: skip
        options = statement.args.get("options") or ()
        to = next((o.this for o in options if isinstance(o, exp.ToTableProperty)), None)
        for option in options:
            if not isinstance(option, exp.ToTableProperty):
                _refuse(f"this is not understood: {_short(option.sql('postgres'))}")
        for action in statement.args["actions"]:
            if isinstance(action, exp.AlterRename) and to is not None:  # RENAME a TO b
                self._rename(action.this, to)
            elif isinstance(action, exp.AlterRename):
                _refuse("it renames the table, which makes another topic", "name the new table in the source's tables:, it is loaded anew")
            elif type(action) in actions:
                actions[type(action)](action)
            else:
                _refuse(f"this is not understood: {_short(action.sql('postgres'))}")
        return RowSchema(tuple(self._fields), self._key)

    # ---- actions ----------------------------------------------------------------------------------------------------
    def _add(self, action: exp.Expression) -> None:
        name, kind = _name(action.this), action.args["kind"]
        if any(f.name == name for f in self._fields):
            if action.args.get("exists"):
                return
            _refuse(f"there is a column {name} already", "give it another name")
        constraints = [c.kind for c in action.args.get("constraints") or ()]
        if any(isinstance(c, exp.ComputedColumnConstraint) for c in constraints):
            return  # generated columns are not in the stream
        primary = any(isinstance(c, exp.PrimaryKeyColumnConstraint) for c in constraints)
        if primary:
            self._has_no_key(f"PRIMARY KEY ({name})")
        type_ = _type(kind)
        counted = _kind(kind) in _COUNTED or any(isinstance(c, exp.GeneratedAsIdentityColumnConstraint) for c in constraints)
        never_null = [c for c in constraints if isinstance(c, exp.NotNullColumnConstraint) and not c.args.get("allow_null")]
        default = next((c.this for c in constraints if isinstance(c, exp.DefaultColumnConstraint)), None)
        fill = UNKNOWN if counted else _fill(default, type_) if default is not None else None
        self._fields.append(Field(name, type_, self._free, not (never_null or primary or counted), fill))
        self._free += 1
        self._key = (name,) if primary else self._key

    def _drop(self, action: exp.Expression) -> None:
        (what,) = action.args["tables"]
        if action.args.get("kind") == "CONSTRAINT":
            if not _name(what).endswith("_pkey"):
                cure = "leave it out where it is not: other constraints change no row. Where it is, call it movie_pkey, as Postgres does"
                _refuse(f"whether the constraint {_name(what)} is the primary key is not known here", cure)
            self._key = ()
            return
        i = self._at(what, quietly=bool(action.args.get("exists")))
        if i is not None:
            name = self._fields.pop(i).name
            self._key = () if name in self._key else self._key  # the constraint goes with the column

    def _rename(self, was: exp.Expression, now: exp.Expression) -> None:
        i, name = self._at(was), _name(now.this if isinstance(now, exp.Table) else now)
        assert i is not None
        if any(f.name == name for f in self._fields):
            _refuse(f"there is a column {name} already", "give it another name")
        self._key = tuple(name if k == self._fields[i].name else k for k in self._key)
        self._fields[i] = replace(self._fields[i], name=name)

    def _alter(self, action: exp.Expression) -> None:
        i = self._at(action.this)
        assert i is not None
        field = self._fields[i]
        if action.args.get("dtype") is not None:
            type_ = _type(action.args["dtype"])
            fill = field.fill if not isinstance(field.fill, Constant) or _is_value(type_, field.fill.text) else UNKNOWN
            self._fields[i] = replace(field, type=type_, fill=fill)
        elif action.args.get("allow_null") is not None:
            self._fields[i] = replace(field, nullable=bool(action.args["allow_null"]))
        elif not action.args.get("default") and not action.args.get("drop"):
            _refuse(f"this is not understood: {_short(action.sql('postgres'))}")
        # A default that is set or dropped says what rows get from now on, and changes none.

    def _constrain(self, action: exp.Expression) -> None:
        for constraint in action.expressions:
            for part in constraint.expressions if isinstance(constraint, exp.Constraint) else [constraint]:
                if isinstance(part, exp.PrimaryKey):
                    self._make_key(part)

    def _make_key(self, key: exp.PrimaryKey) -> None:
        self._has_no_key(_short(key.sql("postgres")))
        places = [self._at(column) for column in key.expressions]
        for i in places:
            assert i is not None
            self._fields[i] = replace(self._fields[i], nullable=False)
        self._key = tuple(self._fields[i].name for i in places if i is not None)

    def _has_no_key(self, wanted: str) -> None:
        if self._key:
            cure = f"drop it in the same statement: DROP CONSTRAINT …_pkey, ADD {wanted}"
            _refuse(f"there is a primary key already: {', '.join(self._key)}", cure)

    def _at(self, column: exp.Expression, quietly: bool = False) -> int | None:
        name = _name(column.this if isinstance(column, exp.Table) else column)
        found = next((i for i, f in enumerate(self._fields) if f.name == name), None)
        if found is None and not quietly:
            _refuse(f"there is no column {name}", f"it has {', '.join(f.name for f in self._fields)}")
        return found


# ---- types and defaults -----------------------------------------------------------------------------------------------
def _kind(node: exp.Expression) -> str:
    kind = node.this
    return str(getattr(kind, "value", kind)).upper()


def _type(node: exp.Expression) -> Type:
    """Raises Refused for a type that the database alone knows."""
    if _kind(node) == "USER-DEFINED" and node.sql("postgres").lower() not in _TEXTS:
        cure = "write what it is made from: text for an enum, for a domain its own type"
        _refuse(f"what the type {node.sql('postgres')} is made from is not known here", cure)
    if _kind(node) == "DECIMAL":
        precision, scale = [*(int(p.name) for p in node.expressions), 0, 0][:2]
        return type_of(NUMERIC, (precision << 16 | scale) + 4 if precision else _NO_TYPMOD)
    oid = _OIDS.get(_kind(node), 0)
    short = oid == _DOUBLE and node.expressions and int(node.expressions[0].name) <= 24  # float(n): real up to 24 bits
    return type_of(_REAL if short else oid, _NO_TYPMOD)


def _fill(default: exp.Expression, type_: Type) -> Fill | None:
    """What old rows get by a DEFAULT: the constant that it is; what is computed is known when it is done."""
    while isinstance(default, exp.Cast | exp.Paren):
        default = default.this
    if isinstance(default, exp.Null):
        return None
    sign, value = ("-", default.this) if isinstance(default, exp.Neg) else ("", default)
    if isinstance(value, exp.Boolean):
        return Constant("t" if value.this else "f")
    text = sign + str(value.this) if isinstance(value, exp.Literal) else ""
    return Constant(text) if isinstance(value, exp.Literal) and _is_value(type_, text) else UNKNOWN


def _is_value(type_: Type, text: str) -> bool:
    try:
        fill_value(type_, text)
    except ValueError:
        return False
    return True
