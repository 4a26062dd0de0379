"""SQL types as CockroachDB names them: how a name is read, how the type is shown, which number the wire gives it.

How values of a type are read and written is values.py's.
Reference: CockroachDB 26.1, "Data Types"; PostgreSQL 17, pg_type.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

ENUM_OIDS_FROM = 100_000


@dataclass(frozen=True, slots=True)
class SqlType:
    """`kind` is the family. `width`: bytes of an int or float, length of strings and bits, digits of a decimal or of seconds' fraction.

    `name`: an enum's qualified name or a collation's locale. `element` is an array's. `labels` are an enum's, in order.
    `spelling` tells STRING, VARCHAR and CHAR apart, which are one family.
    """

    kind: str
    width: int | None = None
    scale: int | None = None
    name: str | None = None
    element: SqlType | None = None
    labels: tuple[str, ...] = ()
    spelling: str | None = None
    number: int = 0

    @property
    def text(self) -> str:
        """As SHOW CREATE TABLE prints it."""
        if self.kind == "array":
            return f"{_element(self).text}[]"
        if self.kind in ("int", "float"):
            return f"{self.kind.upper()}{self.width}"
        if self.kind == "enum":
            return self.name or ""
        word = self.spelling or self.kind.upper()
        length = "" if self.width is None else f"({self.width})" if self.scale is None else f"({self.width},{self.scale})"
        return f"{word}{length}" + (f" COLLATE {self.name}" if self.kind == "string" and self.name else "")

    @property
    def oid(self) -> int:
        if self.kind == "array":
            return _array_oid(_element(self))
        if self.kind == "enum":
            return ENUM_OIDS_FROM + self.number
        return _OIDS[_wire_word(self)][0]

    @property
    def typmod(self) -> int:
        """PostgreSQL's atttypmod."""
        if self.kind == "array":
            return _element(self).typmod
        if self.width is None or self.kind in ("int", "float"):
            return -1
        if self.kind == "decimal":
            return (self.width << 16 | (self.scale or 0)) + 4
        return self.width + 4 if self.kind == "string" else self.width


def _element(array: SqlType) -> SqlType:
    assert array.element is not None
    return array.element


def array_of(element: SqlType) -> SqlType:
    return SqlType("array", element=element)


def _wire_word(of: SqlType) -> str:
    if of.kind in ("int", "float"):
        return f"{of.kind}{of.width}"
    return {"VARCHAR": "varchar", "CHAR": "bpchar"}.get(of.spelling or "", of.kind)


def _array_oid(element: SqlType) -> int:
    return ENUM_OIDS_FROM + element.number + 1 if element.kind == "enum" else _OIDS[_wire_word(element)][1]


_OIDS = {
    "bool": (16, 1000), "bytes": (17, 1001), "name": (19, 1003), "int8": (20, 1016), "int2": (21, 1005), "int4": (23, 1007),
    "string": (25, 1009), "oid": (26, 1028), "float4": (700, 1021), "float8": (701, 1022), "unknown": (705, 1009),
    "bpchar": (1042, 1014), "varchar": (1043, 1015), "date": (1082, 1182), "time": (1083, 1183), "timestamp": (1114, 1115),
    "timestamptz": (1184, 1185), "interval": (1186, 1187), "timetz": (1266, 1270), "bit": (1560, 1561), "varbit": (1562, 1563),
    "decimal": (1700, 1231), "uuid": (2950, 2951), "jsonb": (3802, 3807), "inet": (869, 1041), "tsvector": (3614, 3643),
    "tsquery": (3615, 3645), "pg_lsn": (3220, 3221), "geometry": (90000, 90001), "geography": (90002, 90003),
    "box2d": (90004, 90005), "vector": (90006, 90007), "citext": (90008, 90009), "ltree": (90010, 90011), "tuple": (2249, 2287),
}  # fmt: skip

INT8, INT4, INT2 = SqlType("int", 8), SqlType("int", 4), SqlType("int", 2)
FLOAT8, DECIMAL, BOOL = SqlType("float", 8), SqlType("decimal"), SqlType("bool")
STRING, BYTES, UNKNOWN = SqlType("string", spelling="STRING"), SqlType("bytes"), SqlType("unknown")
DATE, TIMESTAMP, TIMESTAMPTZ, INTERVAL = SqlType("date"), SqlType("timestamp"), SqlType("timestamptz"), SqlType("interval")
UUID, JSONB, NAME = SqlType("uuid"), SqlType("jsonb"), SqlType("name")

_WORDS = {
    "int": INT8, "integer": INT8, "int8": INT8, "int64": INT8, "bigint": INT8, "int4": INT4, "int2": INT2, "smallint": INT2,
    "float": FLOAT8, "float8": FLOAT8, "double precision": FLOAT8, "float4": SqlType("float", 4), "real": SqlType("float", 4),
    "decimal": DECIMAL, "numeric": DECIMAL, "dec": DECIMAL, "bool": BOOL, "boolean": BOOL, "string": STRING, "text": STRING,
    "varchar": SqlType("string", spelling="VARCHAR"), "character varying": SqlType("string", spelling="VARCHAR"),
    "char": SqlType("string", 1, spelling="CHAR"), "character": SqlType("string", 1, spelling="CHAR"),
    "bytes": BYTES, "bytea": BYTES, "blob": BYTES, "date": DATE, "timestamp": TIMESTAMP, "timestamptz": TIMESTAMPTZ,
    "timestamp without time zone": TIMESTAMP, "timestamp with time zone": TIMESTAMPTZ, "time": SqlType("time"),
    "time without time zone": SqlType("time"), "timetz": SqlType("timetz"), "time with time zone": SqlType("timetz"),
    "interval": INTERVAL, "uuid": UUID, "jsonb": JSONB, "json": JSONB, "bit": SqlType("bit", 1), "varbit": SqlType("varbit"),
    "bit varying": SqlType("varbit"), "inet": SqlType("inet"), "oid": SqlType("oid"), "name": NAME,
    "geometry": SqlType("geometry"), "geography": SqlType("geography"), "box2d": SqlType("box2d"),
    "tsvector": SqlType("tsvector"), "tsquery": SqlType("tsquery"), "vector": SqlType("vector"), "pg_lsn": SqlType("pg_lsn"),
    "citext": SqlType("citext"), "ltree": SqlType("ltree"),
}  # fmt: skip
NEW_SINCE_22_1 = frozenset(("tsvector", "tsquery", "vector", "pg_lsn", "citext", "ltree"))
_TAKES_LENGTH = frozenset(("string", "decimal", "bit", "varbit", "timestamp", "timestamptz", "time", "timetz", "interval", "vector"))


def is_type_word(words: str) -> bool:
    return words in _WORDS


def named(words: str, lengths: tuple[int, ...] = ()) -> SqlType | None:
    """The type that lower-case `words` name, with what stood in parentheses after it; None where none is named so."""
    found = _WORDS.get(words)
    if found is None or (lengths and found.kind not in _TAKES_LENGTH):
        return None
    if not lengths:
        return found
    if found.kind == "decimal":
        return replace(found, width=lengths[0], scale=lengths[1] if len(lengths) > 1 else 0)
    return replace(found, width=lengths[0])
