"""Which type a Postgres column has here: the one table of it.

A type that is not in it travels as the text that the server writes for it; a domain counts as what it is made from.
"""

from __future__ import annotations

from millstream.events.types import Type

# information_schema's domains and the like have oids from here up, which no table below knows.
FIRST_UNFIXED_OID = 10000
NUMERIC = 1700
DECIMAL_PRECISION_MAX = 76

_TYPES = {
    16: Type("boolean"),
    17: Type("bytes"),
    20: Type("int64"),
    21: Type("int32"),
    23: Type("int32"),
    26: Type("int64"),  # oid: 32 bits without a sign
    114: Type("json"),
    700: Type("float32"),
    701: Type("float64"),
    1082: Type("date"),
    1083: Type("time"),
    1114: Type("timestamp"),
    1184: Type("timestamptz"),
    2950: Type("uuid"),
    3802: Type("json"),
}


def type_of(oid: int, typmod: int) -> Type:
    """The type of a column whose type is no domain. Reference: PostgreSQL 18, pg_type.dat; numeric.c for the typmod."""
    if oid == NUMERIC:
        return _numeric(typmod)
    return _TYPES.get(oid, Type("text"))


def _numeric(typmod: int) -> Type:
    if typmod < 4:
        return Type("numeric")  # of no declared precision
    precision = (typmod - 4) >> 16 & 0xFFFF
    scale = (typmod - 4) & 0x7FF
    if scale >= 1024:
        scale -= 2048  # eleven bits with a sign, since PostgreSQL 15
    # Scales that are negative (zeros before the point) or above the precision (zeros after it) are written out.
    precision, scale = max(precision - min(scale, 0), scale), max(scale, 0)
    return Type("numeric") if precision > DECIMAL_PRECISION_MAX else Type("decimal", precision, scale)
