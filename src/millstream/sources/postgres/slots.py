"""The slot, which keeps the log for us: made, looked at, and held against the position that we recorded.

Whatever follows the position must still be there, or it is said what was lost: nothing is skipped in silence.
"""

from __future__ import annotations

from dataclasses import dataclass

from millstream.errors import Irrecoverable, Refused, Retryable
from millstream.events.progress import Position
from millstream.sources.postgres.messages import lsn_of, lsn_text
from millstream.sources.postgres.session import Session
from millstream.sources.postgres.transport import Identity

CREATED_WITHIN_S = 60.0
_REPAIR = "begin again under another source name: a new slot, new topics, a new initial load (docs/how-to/lost-slot.md)"


@dataclass(frozen=True)
class Slot:
    """As the server has it now. `confirmed` is what it believes us to have, `reader` the pid of who streams from it."""

    name: str
    plugin: str | None
    database: str | None
    confirmed: int
    lost: str | None
    reader: int | None
    reader_name: str | None


def look(session: Session, name: str) -> Slot | None:
    reason = "s.invalidation_reason" if session.server_version >= 170000 else "NULL::text"
    found = session.rows(
        f"""SELECT s.plugin, s.database, s.confirmed_flush_lsn::text, s.wal_status, {reason}, s.active_pid, a.application_name
        FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = %s""",
        [name],
    )
    if not found:
        return None
    plugin, database, confirmed, wal_status, invalidated, pid, application = found[0]
    lost = invalidated or ("the log that it needs was removed (wal_status lost)" if wal_status == "lost" else None)
    return Slot(name, plugin, database, lsn_of(confirmed) if confirmed else 0, lost, pid, application)


def hold_against(slot: Slot | None, name: str, position: Position | None, identity: Identity, where: str) -> None:
    """Raises Irrecoverable where what follows `position` is gone, Refused where there is no slot, Retryable where another reads it."""
    if position is not None:
        _same_server(position, identity, where)
    if slot is None:
        raise _no_slot(name, position, where)
    if slot.lost is not None:
        raise Irrecoverable(
            f"the server gave up slot {name} ({slot.lost}): the changes after {_from(position)} are lost",
            code="slot_gone",
            where=where,
            cure=f"{_REPAIR}; raise max_slot_wal_keep_size so that it does not happen again",
        )
    if position is not None and slot.confirmed > position.major:
        raise Irrecoverable(
            f"slot {name} stands at {lsn_text(slot.confirmed)}, beyond {_from(position)}: it was made again, or another reader moved it, "
            "and the changes between are lost",
            code="slot_moved",
            where=where,
            cure=_REPAIR,
        )
    if slot.reader is not None:
        raise Retryable(
            f"slot {name} is read by process {slot.reader} ({slot.reader_name or 'of no name'})",
            code="slot_in_use",
            where=where,
            cure="one source is read once: stop the other reader, or give this one a slot of its own",
        )


def _same_server(position: Position, identity: Identity, where: str) -> None:
    before = (position.detail.get("system"), position.detail.get("timeline"))
    if before in ((identity.system, identity.timeline), (None, None)):
        return
    raise Irrecoverable(
        f"the position belongs to server {before[0]}, timeline {before[1]}; this is {identity.system}, timeline {identity.timeline}: "
        "places in their logs cannot be compared",
        code="other_server",
        where=where,
        cure=f"point the url at the server it was, or {_REPAIR}",
    )


def _no_slot(name: str, position: Position | None, where: str) -> Irrecoverable | Refused:
    if position is None:
        return Refused(f"slot {name} does not exist", code="no_slot", where=where, cure="run `millstream apply`, which makes it")
    return Irrecoverable(
        f"slot {name} is gone: the changes after {_from(position)} may be lost",
        code="slot_gone",
        where=where,
        cure=_REPAIR,
    )


def _from(position: Position | None) -> str:
    return "its beginning" if position is None else lsn_text(position.major)


def create(session: Session, name: str) -> None:
    """Make the slot. Waits for the transactions that are running to end; Retryable("slot_waits") after CREATED_WITHIN_S."""
    try:
        session.rows(f"SET statement_timeout = {int(CREATED_WITHIN_S * 1000)}")
        session.rows("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    except Retryable as error:
        if error.code == "cancelled":
            raise Retryable(
                f"slot {name} cannot be made while older transactions run",
                code="slot_waits",
                where=session.where,
                cure="end the oldest ones: SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start NULLS LAST",
            ) from None
        raise
    finally:
        session.rows("SET statement_timeout = 0")
