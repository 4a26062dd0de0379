"""`CREATE CHANGEFEED …` and `EXPERIMENTAL CHANGEFEED FOR …` → what was asked for, or the refusal that the real servers give.

Which tables the names mean, and what the feed then sends, is feeds.py's. Sinks (`INTO`) are refused: the stand-in is sinkless.
Reference: the recordings 03, 05, 07, 08, 10 and 16 of both versions; CockroachDB 26.1, "CREATE CHANGEFEED".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from millstream.testing.cockroach.errors import SqlError, not_modelled
from millstream.testing.cockroach.grammar import Parser
from millstream.testing.cockroach.syntax import Call, Expression, Item, Name, Reference

FLAG, VALUE, EITHER = "flag", "value", "either"

_BOTH: Mapping[str, str] = {
    "confluent_schema_registry": VALUE, "cursor": VALUE, "diff": FLAG, "envelope": VALUE, "format": VALUE, "full_table_name": FLAG,
    "key_in_value": FLAG, "kafka_sink_config": VALUE, "min_checkpoint_frequency": VALUE, "mvcc_timestamp": FLAG, "no_initial_scan": FLAG,
    "on_error": VALUE, "protect_data_from_gc_on_pause": FLAG, "resolved": EITHER, "schema_change_events": VALUE,
    "schema_change_policy": VALUE, "topic_in_value": FLAG, "updated": FLAG, "virtual_columns": VALUE, "webhook_auth_header": VALUE,
}  # fmt: skip
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "22.1": {**_BOTH, "initial_scan": FLAG},
    "26.1": {
        **_BOTH, "compression": VALUE, "encode_json_value_null_as_object": FLAG, "end_time": VALUE, "enriched_properties": VALUE,
        "execution_locality": VALUE, "gc_protect_expires_after": VALUE, "ignore_disable_changefeed_replication": FLAG,
        "initial_scan": EITHER, "initial_scan_only": FLAG, "key_column": VALUE, "lagging_ranges_polling_interval": VALUE,
        "lagging_ranges_threshold": VALUE, "metrics_label": VALUE, "range_distribution_strategy": VALUE, "split_column_families": FLAG,
        "unordered": FLAG,
    },
}  # fmt: skip
_ENVELOPES = {
    "22.1": ("row", "deprecated_row", "key_only", "wrapped"),
    "26.1": ("row", "key_only", "wrapped", "deprecated_row", "bare", "enriched"),
}
_FORMATS = {
    "22.1": ("json", "avro", "experimental_avro", "csv", "native"),
    "26.1": ("json", "avro", "csv", "experimental_avro", "parquet", "protobuf"),
}
CDC = "cdc()"
"""The table name of references to what a function tells about the event."""
ABOUT_EVENTS = ("event_op", "event_schema_timestamp", "changefeed_creation_timestamp")
UNSUPPORTED = frozenset((
    "avg", "array_agg", "bool_and", "bool_or", "clock_timestamp", "cluster_logical_timestamp", "concat_agg", "count", "current_date",
    "current_timestamp", "current_user", "every", "gen_random_uuid", "json_agg", "jsonb_agg", "max", "min", "nextval", "now", "random",
    "session_user", "stddev", "string_agg", "sum", "timeofday", "unique_rowid", "uuid_generate_v4", "variance", "version",
))  # fmt: skip
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Target:
    name: Name
    family: str | None = None


@dataclass(frozen=True)
class CdcQuery:
    """AS SELECT: `items` over the one target, whose rows may be called `alias`; those where `where` is not true send nothing."""

    items: tuple[Item, ...]
    where: Expression | None
    alias: str
    uses_previous: bool


@dataclass(frozen=True)
class Changefeed:
    """What a statement asks for, checked. Durations are seconds; `cursor` and `end_time` are texts for AS OF SYSTEM TIME to read."""

    targets: tuple[Target, ...]
    options: Mapping[str, str | None]
    query: CdcQuery | None = None
    resolved_s: float | None = None
    """The least time between two resolved messages; None: none are sent."""
    checkpoint_s: float = 30.0
    scan: str = "yes"
    """yes, no or only; a cursor alone means no."""
    envelope: str = "wrapped"
    policy: str = "backfill"
    column_changes: bool = False
    cursor: str | None = None
    end_time: str | None = None
    flags: frozenset[str] = field(default_factory=frozenset)
    """Names of the options without a value."""


def is_changefeed(sql: str) -> bool:
    return re.match(r"\s*(create|experimental)\s+changefeed\b", sql, re.IGNORECASE) is not None


def read(sql: str, version: str) -> Changefeed:
    """Raises SqlError, as the real server of that version does."""
    return _Statement(sql, version).changefeed()


class _Statement(Parser):
    def __init__(self, sql: str, version: str) -> None:
        super().__init__(sql)
        self.version = version
        self._previous = False
        self._unsupported: list[str] = []

    def changefeed(self) -> Changefeed:
        if not self.word("experimental"):
            self.need("create")
        self.need("changefeed")
        targets: tuple[Target, ...] = ()
        if self.word("for"):
            self.word("table")
            if self.here.kind == "end":
                raise SqlError("42601", f"{self.fail().message}\nHINT:  try \\h CREATE")
            targets = self.listed(self._target)
        if self.word("into"):
            raise not_modelled("changefeeds into a sink")
        options: dict[str, str | None] = {}
        if self.word("with"):
            listed = self.in_parens(self._option) if self.is_op("(") else self.listed(self._option)
            options = dict(listed)
        query = None
        if not targets:
            self.need("as")
            if self.version == "22.1":
                raise self.fail()
            targets, query = self._query()
        self.end()
        return _checked(targets, options, query, self.version)

    def _target(self) -> Target:
        name = self.path()
        if self.version != "22.1" and self.word("family"):
            return Target(name, self.name())
        return Target(name)

    def _option(self) -> tuple[str, str | None]:
        name = self.name()
        if not self.op("="):
            return name, None
        token = self.here
        if token.kind not in ("string", "word", "name", "number"):
            raise self.fail()
        self.place += 1
        return name, token.text

    # ---- CDC queries

    def _query(self) -> tuple[tuple[Target, ...], CdcQuery]:
        self.need("select")
        if self.is_word("distinct"):
            raise SqlError("42601", f"{self.fail().message}\nHINT:  try \\h CREATE")
        items = self.listed(self.item)
        self.need("from")
        name = self.path()
        alias = self.name() if self.word("as") else name[-1]
        where = self.expression() if self.word("where") else None
        if self._unsupported:
            raise SqlError("42883", f'function "{self._unsupported[-1]}" unsupported by CDC')
        return (Target(name),), CdcQuery(items, where, alias, self._previous)

    def _primary(self) -> Expression:
        if self.is_op("(") and self.tokens[self.place + 1].text == "select":
            raise SqlError("0A000", "sub-query expressions not supported by CDC")
        return super()._primary()

    def _call(self, name: str) -> Expression:
        """What a feed tells about an event is read like a column of a table CDC; what changes from call to call is refused."""
        if name in UNSUPPORTED:
            self._unsupported.append(name)
        found = super()._call(name)
        return Reference(CDC, name) if name in ABOUT_EVENTS else found

    def _named(self) -> Expression:
        found = super()._named()
        if isinstance(found, Call) and found.name in UNSUPPORTED:
            self._unsupported.append(found.name)
        return found

    def _postfixed(self) -> Expression:
        """`(cdc_prev).name`, which is the only tuple that a CDC query takes apart."""
        names = [t.text for t in self.tokens[self.place : self.place + 4]]
        if names == ["(", "cdc_prev", ")", "."]:
            self.place += 4
            self._previous = True
            return Reference("cdc_prev", self.name())
        found = super()._postfixed()
        if isinstance(found, Reference) and "cdc_prev" in (found.table, found.name):
            self._previous = True
        return found


def _checked(targets: tuple[Target, ...], options: Mapping[str, str | None], query: CdcQuery | None, version: str) -> Changefeed:
    known = OPTIONS[version]
    for name, value in options.items():
        if name not in known:
            raise SqlError("XXUUU", f'invalid option "{name}"')
        if value is not None and known[name] == FLAG:
            raise SqlError("XXUUU", f'option "{name}" does not take a value')
        if value is None and known[name] == VALUE:
            raise SqlError("XXUUU", f'option "{name}" requires a value')
    return Changefeed(
        targets,
        options,
        query,
        resolved_s=_resolved(options, version),
        checkpoint_s=_duration("min_checkpoint_frequency", options.get("min_checkpoint_frequency") or "30s", version),
        scan=_scan(options, version),
        envelope=_envelope(options, query, version),
        policy=_choice(options, "schema_change_policy", ("backfill", "nobackfill", "stop", "ignore"), version),
        column_changes=_choice(options, "schema_change_events", ("default", "column_changes"), version) == "column_changes",
        cursor=options.get("cursor"),
        end_time=options.get("end_time"),
        flags=frozenset(name for name, value in options.items() if value is None),
    )


def wrong_value(version: str) -> str:
    """The SQLSTATE of an option's value that is not understood."""
    return "XXUUU" if version == "22.1" else "22023"


def _resolved(options: Mapping[str, str | None], version: str) -> float | None:
    if "resolved" not in options:
        return None
    return _duration("resolved", options["resolved"] or "0s", version)


def _duration(name: str, text: str, version: str) -> float:
    parts = re.findall(r"([\d.]+)(ns|us|µs|ms|s|m|h)", text)
    if not parts and text == "0":
        return 0.0
    if "".join(n + u for n, u in parts) != text or not parts:
        before = "" if version == "22.1" else f"problem parsing option {name}: "
        raise SqlError(wrong_value(version), f'{before}time: invalid duration "{text}"')
    return sum(float(n) * _UNITS_S[u] for n, u in parts)


def _scan(options: Mapping[str, str | None], version: str) -> str:
    given = [n for n in ("initial_scan", "no_initial_scan", "initial_scan_only") if n in options]
    if len(given) > 1:
        raise SqlError(wrong_value(version), f"cannot specify both {given[0]} and {given[1]}")
    if not given:
        return "no" if "cursor" in options else "yes"
    named = {"no_initial_scan": "no", "initial_scan_only": "only"}.get(given[0]) or (options["initial_scan"] or "yes")
    if named not in ("yes", "no", "only"):
        raise SqlError("22023", f"unknown initial_scan: {named}, valid values are 'yes', 'no',  and 'only'")
    if named == "only":
        for other in ("end_time", "resolved", "diff", "mvcc_timestamp", "updated"):
            if other in options:
                raise SqlError("22023", f"cannot specify both initial_scan='only' and {other}")
    return named


def _envelope(options: Mapping[str, str | None], query: CdcQuery | None, version: str) -> str:
    envelope = _choice(options, "envelope", _ENVELOPES[version], version, "bare" if query else "wrapped")
    form = _choice(options, "format", _FORMATS[version], version, "json")
    if form in ("avro", "experimental_avro") and "confluent_schema_registry" not in options:
        raise SqlError("XXUUU", "WITH option confluent_schema_registry is required for format=avro")
    if form != "json":
        raise not_modelled(f"format={form}")
    if envelope == "enriched":
        raise not_modelled(f"envelope={envelope}")
    if version == "22.1" and "diff" in options and envelope != "wrapped":
        raise SqlError("XXUUU", "diff is only usable with envelope=wrapped")
    return "row" if envelope == "deprecated_row" else envelope


def _choice(options: Mapping[str, str | None], name: str, known: tuple[str, ...], version: str, otherwise: str | None = None) -> str:
    found = options.get(name)
    if found is None:
        return otherwise or known[0]
    if found in known:
        return found
    if version == "22.1":
        raise SqlError("XXUUU", f"unknown {name}: {found}")
    quoted = [f"'{k}'" for k in known if k != "ignore"]
    raise SqlError("22023", f"unknown {name}: {found}, valid values are {', '.join(quoted[:-1])},  and {quoted[-1]}")
