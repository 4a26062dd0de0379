"""`millstream schemas`: the registry's subjects, and what changed from version to version."""

from __future__ import annotations

import json
from typing import Any

from cyclopts import App

from millstream.cli.exits import OK
from millstream.cli.schemadiff import diff
from millstream.cli.session import Here
from millstream.cli.subjects import found
from millstream.events.types import RowSchema
from millstream.schemas.operations import operations
from millstream.schemas.registry import SchemaVersion

app = App(name="schemas", help="Look at the registered schemas: `schemas list`, `schemas show SUBJECT`, `schemas diff TOPIC`.")
app.command(diff)


@app.command(name="list")
def list_subjects(*, session: Here) -> int:
    """List every subject: a topic's values (TOPIC-value) and keys (TOPIC-key).

    Example: `millstream schemas list`
    """
    with session.mesh() as mesh:
        rows = [(s, versions[-1].version, versions[-1].id) for s in mesh.registry.subjects() if (versions := mesh.registry.versions(s))]
    session.output.table(("subject", "version", "id"), rows, "no schema is registered yet: `millstream apply` registers the first")
    session.output.document([{"subject": s, "version": v, "id": i} for s, v, i in rows])
    return OK


@app.command
def show(subject: str, /, *, version: int | None = None, session: Here) -> int:
    """Show a subject's newest version: its columns, and how it differs from the version before.

    Example: `millstream schemas show shop.public.orders-value --version 2`

    Parameters
    ----------
    subject
        As `millstream schemas list` names it, or a topic, for that of its values.
    version
        Another version than the newest.
    """
    with session.mesh() as mesh:
        there = found(mesh, subject)
    chosen = there.versions[-1] if version is None else there.version(version)
    rows = [there.rows(v) for v in there.versions if v.version <= chosen.version][-2:] if there.topic else []
    out = session.output
    out.say(f"{there.name}, version {chosen.version} of {there.versions[-1].version}, id {chosen.id}", "bold")
    if rows:
        out.table(("column", "type", "key"), [(f.name, f.type, "key" if f.name in rows[-1].key else "") for f in rows[-1].fields], "")
        changes = [str(c) for c in operations(rows[-2], rows[-1])] if len(rows) > 1 else []
        for change in changes:
            out.say(f"since version {chosen.version - 1}: {change}")
    else:
        changes = []
        out.say(json.dumps(json.loads(chosen.text), indent=2))
    out.document(_document(chosen, changes, rows[-1] if rows else None))
    return OK


def _document(version: SchemaVersion, changes: list[str], schema: RowSchema | None) -> dict[str, Any]:
    columns = [] if schema is None else [{"name": f.name, "type": str(f.type), "key": f.name in schema.key} for f in schema.fields]
    return {
        "subject": version.subject,
        "version": version.version,
        "id": version.id,
        "columns": columns,
        "changes": changes,
        "schema": json.loads(version.text),
    }
