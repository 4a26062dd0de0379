"""Compatibility levels and modes: of the whole registry, and of subjects that have their own."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa

from millstream.errors import Refused
from millstream.schemas.rest.faults import fault, no_subject, not_permitted
from millstream.schemas.tables import SETTINGS, VERSIONS, Database

LEVELS = ("NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")
MODES = ("READWRITE", "READONLY", "READONLY_OVERRIDE", "IMPORT")
GLOBAL = ""
_DEFAULTS = {"level": "BACKWARD", "mode": "READWRITE"}

Setting = Literal["level", "mode"]


def own(connection: sa.Connection, setting: Setting, subject: str) -> str | None:
    """The subject's own level or mode; of GLOBAL, where nobody set one, the default."""
    found = connection.execute(sa.select(SETTINGS.c[setting]).where(SETTINGS.c.subject == subject)).scalar()
    return found or (_DEFAULTS[setting] if subject == GLOBAL else None)


def effective(connection: sa.Connection, setting: Setting, subject: str) -> str:
    """What holds for a subject. READONLY_OVERRIDE of the registry stands above every subject's own mode."""
    everywhere = own(connection, setting, GLOBAL) or _DEFAULTS[setting]
    return everywhere if everywhere == "READONLY_OVERRIDE" else own(connection, setting, subject) or everywhere


def forget(connection: sa.Connection, subject: str) -> None:
    """A deleted subject begins with no settings of its own when it comes again."""
    connection.execute(SETTINGS.delete().where(SETTINGS.c.subject == subject))


class Settings:
    """The levels and modes. Raises Refused with one of the API's codes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, setting: Setting, subject: str = GLOBAL, *, or_global: bool = False) -> str:
        look = effective if or_global else own
        found = self._database.read(lambda c: look(c, setting, subject))
        if found is None:
            raise _not_configured(setting, subject)
        return found

    def set(self, setting: Setting, subject: str, wanted: object, *, force: bool = False) -> str:
        """`force` lets a subject, or a registry, that has versions already go into the mode IMPORT."""
        value = wanted.upper() if isinstance(wanted, str) else ""
        if setting == "level" and value not in LEVELS:
            raise fault("42203", f"Invalid compatibility level. Valid values are {', '.join(LEVELS)}")
        if setting == "mode" and value not in MODES:
            raise fault("42204", f"Invalid mode. Valid values are {', '.join(MODES)}")

        def work(connection: sa.Connection) -> None:
            if value == "IMPORT" and not force and own(connection, "mode", subject) != "IMPORT":
                here = [VERSIONS.c.subject == subject] if subject else []
                if connection.execute(sa.select(VERSIONS.c.subject).where(~VERSIONS.c.deleted, *here).limit(1)).first():
                    raise not_permitted("Cannot import since found existing subjects; force=true does it all the same")
            if connection.execute(sa.select(SETTINGS.c.subject).where(SETTINGS.c.subject == subject)).first():
                connection.execute(SETTINGS.update().where(SETTINGS.c.subject == subject).values({setting: value}))
            else:
                connection.execute(SETTINGS.insert().values({"subject": subject, setting: value}))

        self._database.write(work)
        return value

    def delete(self, setting: Setting, subject: str = GLOBAL) -> str:
        """What it was. The subject falls back to the registry's, the registry to the default."""

        def work(connection: sa.Connection) -> str:
            was = own(connection, setting, subject)
            if was is None:
                raise no_subject(subject)
            connection.execute(SETTINGS.update().where(SETTINGS.c.subject == subject).values({setting: None}))
            return was

        return self._database.write(work)


def _not_configured(setting: Setting, subject: str) -> Refused:
    if setting == "level":
        return fault("40408", f"Subject '{subject}' does not have subject-level compatibility configured")
    return fault("40409", f"Subject '{subject}' does not have subject-level mode configured")
