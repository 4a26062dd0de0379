"""Dates, times and intervals over the whole range that CockroachDB has, which Python's datetime has not.

A date is days since 1970, a timestamp microseconds since 1970, a time of day microseconds, an interval (months, days, microseconds).
Years before Christ and both infinities are ordinary values here.
Reference: CockroachDB 26.1, "Date", "Timestamp", "Interval".
"""

from __future__ import annotations

import re

DAY = 86_400_000_000
DATE_MAX, DATE_MIN = 2**31 - 1, -(2**31)
"""The dates `infinity` and `-infinity`."""

_DATE = re.compile(r"(\d{1,7})-(\d{1,2})-(\d{1,2})")
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?")
_ZONE = re.compile(r"([+-])(\d{1,2})(?::?(\d{2}))?(?::?(\d{2}))?|Z|UTC", re.IGNORECASE)
_UNITS = {
    "year": (12, 0, 0), "yr": (12, 0, 0), "y": (12, 0, 0), "month": (1, 0, 0), "mon": (1, 0, 0), "week": (0, 7, 0), "w": (0, 7, 0),
    "day": (0, 1, 0), "d": (0, 1, 0), "hour": (0, 0, 3_600_000_000), "hr": (0, 0, 3_600_000_000), "h": (0, 0, 3_600_000_000),
    "minute": (0, 0, 60_000_000), "min": (0, 0, 60_000_000), "m": (0, 0, 60_000_000), "second": (0, 0, 1_000_000),
    "sec": (0, 0, 1_000_000), "s": (0, 0, 1_000_000), "millisecond": (0, 0, 1000), "ms": (0, 0, 1000), "microsecond": (0, 0, 1),
    "us": (0, 0, 1),
}  # fmt: skip

Interval = tuple[int, int, int]


def days_of(year: int, month: int, day: int) -> int:
    """Days since 1970 of a proleptic Gregorian date; year 0 is 1 BC. ValueError where there is no such day."""
    lengths = (31, 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    if not (1 <= month <= 12 and 1 <= day <= lengths[month - 1]):
        raise ValueError("no such day")
    y = year - (month <= 2)
    era, of_era = divmod(y, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def date_of(days: int) -> tuple[int, int, int]:
    """(year, month, day): the inverse of days_of."""
    era, of_era = divmod(days + 719_468, 146_097)
    years = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * years + years // 4 - years // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + (3 if shifted < 10 else -9)
    return years + era * 400 + (month <= 2), month, of_year - (153 * shifted + 2) // 5 + 1


TIMESTAMP_MAX = days_of(294_277, 1, 1) * DAY + DAY - 1
TIMESTAMP_MIN = days_of(-4713, 11, 24) * DAY
"""The timestamps `infinity` and `-infinity`: what a changefeed shows them as."""


def _split_era(text: str) -> tuple[str, bool]:
    text = text.strip()
    return (text[:-2].rstrip(), True) if text.upper().endswith("BC") else (text.removesuffix("AD").rstrip(), False)


def _days(found: re.Match[str], before_christ: bool) -> int:
    year = int(found[1])
    return days_of(1 - year if before_christ else year, int(found[2]), int(found[3]))


def parse_date(text: str) -> int:
    """Raises ValueError for what is no date, as every parse_… here does."""
    infinite = {"infinity": DATE_MAX, "-infinity": DATE_MIN, "epoch": 0}.get(text.strip().lower())
    if infinite is not None:
        return infinite
    body, before_christ = _split_era(text)
    found = _DATE.match(body)
    if found is None:
        raise ValueError("no date")
    if body[found.end() :].strip():
        return parse_timestamp(text, zoned=False) // DAY
    return _days(found, before_christ)


def _micros(found: re.Match[str]) -> int:
    hours, minutes, seconds = int(found[1]), int(found[2]), int(found[3] or 0)
    if hours > 24 or minutes > 59 or seconds > 60 or (hours == 24 and (minutes or seconds)):
        raise ValueError("no time of day")
    nanos = int((found[4] or "").ljust(9, "0"))
    return (hours * 3600 + minutes * 60 + seconds) * 1_000_000 + (nanos + 500) // 1000


def parse_zone(text: str) -> int:
    """Seconds east of Greenwich."""
    found = _ZONE.fullmatch(text.strip())
    if found is None:
        raise ValueError("no time zone")
    if found[1] is None:
        return 0
    seconds = int(found[2]) * 3600 + int(found[3] or 0) * 60 + int(found[4] or 0)
    return -seconds if found[1] == "-" else seconds


def parse_timestamp(text: str, *, zoned: bool) -> int:
    """Microseconds since 1970; a zone in the text is applied where `zoned`, else left out. No zone: UTC."""
    infinite = {"infinity": TIMESTAMP_MAX, "-infinity": TIMESTAMP_MIN, "epoch": 0}.get(text.strip().lower())
    if infinite is not None:
        return infinite
    body, before_christ = _split_era(text)
    found = _DATE.match(body)
    if found is None:
        raise ValueError("no timestamp")
    micros, rest = _days(found, before_christ) * DAY, body[found.end() :].lstrip(" tT")
    if not rest:
        return micros
    clock = _TIME.match(rest)
    if clock is None:
        raise ValueError("no timestamp")
    micros, zone = micros + _micros(clock), rest[clock.end() :].strip()
    return micros - parse_zone(zone) * 1_000_000 if zone and zoned else micros


def parse_time(text: str) -> int:
    found = _TIME.match(text.strip())
    if found is None:
        raise ValueError("no time")
    return _micros(found)


def parse_timetz(text: str) -> tuple[int, int]:
    """(microseconds of the day there, seconds east)."""
    found = _TIME.match(text.strip())
    if found is None:
        raise ValueError("no time")
    zone = text.strip()[found.end() :]
    return _micros(found), parse_zone(zone) if zone else 0


def parse_interval(text: str) -> Interval:
    """Units with numbers before them, a clock, or both: '1 year 2 mons 3 days 04:05:06.789', '-1 day -2:00:00', '2:41:00'."""
    months = days = micros = 0
    words = re.findall(r"[+-]?\d+:\d{2}(?::\d{2}(?:\.\d+)?)?|[+-]?\d*\.?\d+|[A-Za-z]+", text)
    if not words or re.sub(r"[\s,]", "", text) != "".join(words):
        raise ValueError("no interval")
    rest = iter(words)
    for word in rest:
        sign = -1 if word.startswith("-") else 1
        if ":" in word:
            parts = word.lstrip("+-").split(":")
            seconds, _, fraction = (parts[2] if len(parts) > 2 else "0").partition(".")
            whole = (int(parts[0]) * 60 + int(parts[1])) * 60 + int(seconds)
            micros += sign * (whole * 1_000_000 + int(fraction.ljust(6, "0")[:6]))
            continue
        unit = _UNITS.get(name := next(rest, "s").lower()) or _UNITS.get(name.removesuffix("s"))
        if unit is None:
            raise ValueError("no interval")
        if "." in word and unit[2] == 0:
            raise ValueError("a fraction of a month or day")
        months, days = months + unit[0] * int(float(word)), days + unit[1] * int(float(word))
        micros += round(unit[2] * float(word)) if "." in word else unit[2] * int(word)
    return months, days, micros


def date_text(days: int) -> str:
    if days in (DATE_MAX, DATE_MIN):
        return "infinity" if days > 0 else "-infinity"
    year, month, day = date_of(days)
    return f"{year if year > 0 else 1 - year:04}-{month:02}-{day:02}" + (" BC" if year <= 0 else "")


def clock_text(micros: int) -> str:
    """hh:mm:ss with the fraction's zeros cut; 24:00:00 too."""
    seconds, fraction = divmod(micros, 1_000_000)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{fraction:06}".rstrip("0") if fraction else text


def timestamp_text(micros: int, zone: str) -> str:
    """As SQL shows it, `zone` put behind."""
    if micros in (TIMESTAMP_MAX, TIMESTAMP_MIN):
        return "infinity" if micros > 0 else "-infinity"
    days, clock = divmod(micros, DAY)
    date, _, era = date_text(days).partition(" ")
    return f"{date} {clock_text(clock)}{zone}" + (f" {era}" if era else "")


def timestamp_json(micros: int, zone: str, version: str = "26.1") -> str:
    """As a changefeed shows it: T between, the astronomical year where it is before 1; infinity is a day, which 22.1 has one earlier."""
    if version == "22.1" and micros == TIMESTAMP_MAX:
        micros -= DAY
    days, clock = divmod(micros, DAY)
    year, month, day = date_of(days)
    shown = f"{year:04}" if year >= 0 else f"-{-year:04}"
    return f"{shown}-{month:02}-{day:02}T{clock_text(clock)}{zone}"


def zone_text(seconds: int, *, short: bool) -> str:
    """+05:30, with seconds too unless `short`, which also leaves out minutes of a whole hour where the time stands alone."""
    east = abs(seconds)
    text = f"{'-' if seconds < 0 else '+'}{east // 3600:02}"
    if not short:
        return f"{text}:{east // 60 % 60:02}:{east % 60:02}"
    minutes, rest = east // 60 % 60, east % 60
    return text + (f":{minutes:02}" if minutes or rest else "") + (f":{rest:02}" if rest else "")


def interval_text(interval: Interval) -> str:
    """1 year 2 mons 3 days 04:05:06.789; plurals for all but 1, as PostgreSQL's style has it."""
    months, days, micros = interval
    years, months = int(months / 12), months - int(months / 12) * 12
    parts = [f"{n} {unit}{'' if n == 1 else 's'}" for n, unit in ((years, "year"), (months, "mon"), (days, "day")) if n]
    if micros or not parts:
        parts.append(("-" if micros < 0 else "") + clock_text(abs(micros)))
    return " ".join(parts)


def add_interval(micros: int, interval: Interval) -> int:
    """A timestamp so much later; a day past a month's end becomes its last."""
    months, days, rest = interval
    on, clock = divmod(micros, DAY)
    year, month, day = date_of(on)
    year, month = year + (month - 1 + months) // 12, (month - 1 + months) % 12 + 1
    while True:
        try:
            return (days_of(year, month, day) + days) * DAY + clock + rest
        except ValueError:
            day -= 1
