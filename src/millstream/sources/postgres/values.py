"""How PostgreSQL writes values. One place for both the stream and COPY, which write the same text.

Reference: PostgreSQL 18, "Date/Time Types" and "Numeric Types", under DateStyle ISO, TimeZone UTC, bytea_output hex.
"""

from __future__ import annotations

from millstream.errors import Irrecoverable
from millstream.events.types import Type
from millstream.sources import values
from millstream.sources.octets import Cells, Octets
from millstream.sources.values import CLOCK, YMD, Converted, Writing

_WRITING = Writing(
    fits={
        "decimal": r"^-?[0-9]+(?:\.[0-9]+)?$",
        "date": rf"^{YMD}$",
        "time": rf"^{CLOCK}$",
        "timestamp": rf"^{YMD} {CLOCK}$",
        "timestamptz": rf"^{YMD} {CLOCK}\+00$",
    },
    true="t",
    hex_prefix=2,
)


def convert(octets: Octets, cells: Cells, kind: Type) -> Converted:
    """Raises Irrecoverable("bad_value") on text that is no value of the type, which no server should write."""
    converted = values.convert(octets, cells, kind, _WRITING)
    if len(converted.misfits):
        raise Irrecoverable(
            f"a value is not a {kind}: the server wrote text that Millstream cannot read",
            code="bad_value",
            cure="report this with the column's type; exclude the table until then",
        )
    return converted
