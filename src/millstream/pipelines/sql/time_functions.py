"""The functions of dates, times and timestamps. A timestamptz is read in UTC."""

from __future__ import annotations

import re

from millstream.events.types import Kind
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.flink import SHIFT_DAYS, SHIFT_YEARS, date_of, shifted
from millstream.pipelines.sql.shape import Argument, Call, Function
from millstream.pipelines.sql.signatures import CLOCK, UNIT, count, gives, quoted, same, second

_STAMP = "TIMESTAMP '2024-05-06 07:08:09'"
_OF_TIME = {"hour": "({0} / 3600000000)", "minute": "MOD({0} / 60000000, 60)", "second": "MOD({0} / 1000000, 60)"}
_EPOCH = "DATE '1970-01-01'"


def _extract(unit: str, when: str, kind: Kind) -> str:
    if kind == "date":
        return f"EXTRACT({unit} FROM {when})"
    sql = f"EXTRACT({unit} FROM {shifted(when)})"
    return f"({sql} - {SHIFT_YEARS})" if unit == "YEAR" else sql


def _part(name: str, kinds: frozenset[Kind], example: str, flink: str = "", doc: str = "") -> Function:
    where = "date or timestamp" if kinds is t.DAYS else "time or timestamp"

    def write(call: Call) -> str:
        if call.types[0].kind == "time":
            return f"CAST({_OF_TIME[name].format(*call.texts)} AS BIGINT)"
        return _extract(flink or name.upper(), call.texts[0], call.types[0].kind)

    return Function(
        name,
        (Argument("when", kinds),),
        gives(t.INT64),
        name + "({0})",
        doc or f"The {name} of a {where} (of a timestamptz: in UTC).",
        ((f"{name}({_STAMP})", example),),
        flink=write,
    )


def floored(when: str, unit: str) -> str:
    """Flink's beginning of the unit. Its weeks begin on Sunday, ours (and ISO's) on Monday."""
    if unit == "week":
        return f"TIMESTAMPADD(DAY, 1, FLOOR(TIMESTAMPADD(DAY, -1, {when}) TO WEEK))"
    return f"FLOOR({when} TO {unit.upper()})"


def _trunc(call: Call) -> str:
    unit, when = (call.words[0] or "").lower(), call.texts[1]
    if call.types[1].kind == "date":
        return when if unit in ("day", "hour", "minute", "second") else f"CAST({floored(when, unit)} AS DATE)"
    sql = f"TIMESTAMPADD(DAY, -{SHIFT_DAYS}, {floored(shifted(when), unit)})"
    return f"CAST({sql} AS TIMESTAMP_LTZ(6))" if call.types[1].kind == "timestamptz" else sql


def _date(when: str, kind: Kind) -> str:
    return when if kind == "date" else date_of(when)


def _days(date: str) -> str:
    return f"CAST(TIMESTAMPDIFF(DAY, {_EPOCH}, {date}) AS BIGINT)"


def _counted(unit: str, when: str, kind: Kind) -> str:
    """How many beginnings of the unit lie between 1970 and `when`, up to a constant."""
    year, date = _extract("YEAR", when, kind), _date(when, kind)
    match unit:
        case "year":
            return year
        case "quarter":
            return f"({year} * 4 + {_extract('QUARTER', when, kind)})"
        case "month":
            return f"({year} * 12 + {_extract('MONTH', when, kind)})"
        case "day":
            return _days(date)
        case "week":
            return f"(({_days(floored(date, 'week'))} + 3) / 7)"  # the first Monday of 1970 was day 4
    hours = f"({_days(date)} * 24 + {'0' if kind == 'date' else _extract('HOUR', when, kind)})"
    if unit == "hour" or kind == "date":
        return {"hour": hours, "minute": f"({hours} * 60)", "second": f"({hours} * 3600)"}[unit]
    minute = f"({hours} * 60 + {_extract('MINUTE', when, kind)})"
    return minute if unit == "minute" else f"({minute} * 60 + {_extract('SECOND', when, kind)})"


def _difference(call: Call) -> str:
    unit = (call.words[0] or "").lower()
    begin, end = (_counted(unit, call.texts[i], call.types[i].kind) for i in (1, 2))
    return f"({end} - {begin})"


def _difference_duckdb(call: Call) -> str:
    unit, begin, end = call.texts
    if (call.words[0] or "").lower() != "week":
        return f"date_diff({unit}, {begin}, {end})"
    return f"(date_diff('day', date_trunc('week', {begin}), date_trunc('week', {end})) // 7)"  # DuckDB's own counts no Mondays


def _added(unit: str, of: str, kinds: frozenset[Kind], example: str, wanted: str) -> Function:
    def write(call: Call) -> str:
        sql = f"TIMESTAMPADD({unit.upper()}, {call.texts[1]}, {call.texts[0]})"
        return f"CAST({sql} AS DATE)" if call.result.kind == "date" else sql

    return Function(
        f"add_{unit}s",
        (Argument("when", kinds), count(f"{unit}s")),
        same,
        f"CAST(({{0}} + {of}) AS {{type}})",
        f"So many {unit}s later, earlier below 0" + ("; at most on the month's last day." if unit in ("month", "year") else "."),
        ((example, wanted),),
        fails="beyond the years that there are",
        flink=write,
        differs="does not fail beyond the years that there are",
    )


_FORMAT = {"%Y": "yyyy", "%m": "MM", "%d": "dd", "%H": "HH", "%M": "mm", "%S": "ss", "%%": "%"}


def _format(call: Call) -> str:
    parts = re.findall(r"%.|[^%]+", call.words[1] or "")
    pattern = "".join(_FORMAT[p] if p in _FORMAT else "''" + p + "''" for p in parts)
    when = f"CAST({call.texts[0]} AS TIMESTAMP(6))" if call.types[0].kind == "date" else call.texts[0]
    return f"DATE_FORMAT({when}, '{pattern}')"


def _epoch_ms(call: Call) -> str:
    when = call.texts[0]
    return f"({_counted('second', when, call.types[0].kind)} * 1000 + {_extract('MILLISECOND', when, call.types[0].kind)})"


_DATE = "CAST(CONCAT(LPAD(CAST({0} AS STRING), 4, '0'), '-', CAST({1} AS STRING), '-', CAST({2} AS STRING)) AS DATE)"

FUNCTIONS: tuple[Function, ...] = (
    _part("year", t.DAYS, "2024"),
    _part("quarter", t.DAYS, "2"),
    _part("month", t.DAYS, "5"),
    _part("week", t.DAYS, "19", doc="The ISO week of a date or timestamp: 1 to 53, beginning on Monday."),
    _part("day", t.DAYS, "6"),
    _part("hour", CLOCK, "7"),
    _part("minute", CLOCK, "8"),
    _part("second", CLOCK, "9"),
    _part("isodow", t.DAYS, "1", doc="The day of the week: 1 is Monday, 7 Sunday."),
    _part("dayofyear", t.DAYS, "127", "DOY", doc="The day of the year, from 1."),
    Function(
        "date_trunc",
        (UNIT, Argument("when", t.DAYS)),
        second,
        "CAST(date_trunc({all}) AS {type})",
        "The beginning of its year, month, … (in UTC); a week begins on Monday.",
        (
            ("date_trunc('month', DATE '2024-05-06')", "DATE '2024-05-01'"),
            ("date_trunc('week', DATE '2024-05-05')", "DATE '2024-04-29'"),
            ("date_trunc('hour', TIMESTAMP '2024-05-06 07:08:09.5')", "TIMESTAMP '2024-05-06 07:00:00'"),
        ),
        flink=_trunc,
    ),
    Function(
        "date_diff",
        (UNIT, Argument("from", t.DAYS), Argument("to", t.DAYS)),
        gives(t.INT64),
        _difference_duckdb,
        "How many beginnings of a year, month, … lie between.",
        (
            ("date_diff('day', DATE '2024-02-28', DATE '2024-03-01')", "2"),
            ("date_diff('year', DATE '2023-12-31', DATE '2024-01-01')", "1"),
            ("date_diff('week', DATE '2024-05-05', DATE '2024-05-06')", "1"),
            ("date_diff('second', TIMESTAMP '1900-01-01 00:00:00', TIMESTAMP '2024-01-01 00:00:01')", "3913056001"),
        ),
        flink=_difference,
    ),
    _added("year", "to_years({1})", t.DAYS, "add_years(DATE '2024-02-29', 1)", "DATE '2025-02-28'"),
    _added("month", "to_months({1})", t.DAYS, "add_months(DATE '2024-01-31', 1)", "DATE '2024-02-29'"),
    _added("day", "to_days({1})", t.DAYS, "add_days(DATE '2024-02-28', -1)", "DATE '2024-02-27'"),
    _added("hour", "to_hours({1})", t.INSTANTS, f"add_hours({_STAMP}, 20)", "TIMESTAMP '2024-05-07 03:08:09'"),
    _added("minute", "to_minutes({1})", t.INSTANTS, f"add_minutes({_STAMP}, -9)", "TIMESTAMP '2024-05-06 06:59:09'"),
    _added("second", "to_seconds({1})", t.INSTANTS, f"add_seconds({_STAMP}, 51)", "TIMESTAMP '2024-05-06 07:09:00'"),
    Function(
        "last_day",
        (Argument("when", t.DAYS),),
        gives(t.DATE),
        "last_day({0})",
        "The last day of its month.",
        (("last_day(DATE '2024-02-03')", "DATE '2024-02-29'"),),
        flink=lambda c: f"TIMESTAMPADD(DAY, -1, TIMESTAMPADD(MONTH, 1, FLOOR({_date(c.texts[0], c.types[0].kind)} TO MONTH)))",
    ),
    Function(
        "epoch_ms",
        (Argument("when", t.INSTANTS),),
        gives(t.INT64),
        "epoch_ms({0})",
        "Milliseconds since 1970 in UTC.",
        (
            ("epoch_ms(TIMESTAMP '1970-01-01 00:00:01')", "1000"),
            ("epoch_ms(TIMESTAMP '1969-12-31 23:59:59.5')", "-500"),
        ),
        flink=_epoch_ms,
    ),
    Function(
        "from_epoch_ms",
        (Argument("milliseconds", t.INTEGERS, t.INT64),),
        gives(t.TIMESTAMPTZ),
        "CAST(epoch_ms({0}) AS TIMESTAMP WITH TIME ZONE)",
        "The instant so many milliseconds after the beginning of 1970 in UTC.",
        (("from_epoch_ms(1500)", "TIMESTAMPTZ '1970-01-01 00:00:01.5+00'"),),
        fails="beyond the years that there are",
        flink="CAST(TO_TIMESTAMP_LTZ({0}, 3) AS TIMESTAMP_LTZ(6))",
        differs="does not fail beyond the years that there are",
    ),
    Function(
        "make_date",
        (count("year"), count("month"), count("day")),
        gives(t.DATE),
        "make_date({all})",
        "A date of three numbers.",
        (("make_date(2024, 2, 29)", "DATE '2024-02-29'"),),
        fails="where there is no such day",
        flink=_DATE,
        differs="years outside 1 to 9999",
    ),
    Function(
        "strftime",
        (Argument("when", t.DAYS), Argument("format", quoted("").kinds, form="format")),
        gives(t.TEXT),
        "strftime({all})",
        "Written as the format says: %Y %m %d %H %M %S, and %% for %.",
        ((f"strftime({_STAMP}, '%d.%m.%Y at %H:%M:%S')", "'06.05.2024 at 07:08:09'"),),
        flink=_format,
    ),
)
