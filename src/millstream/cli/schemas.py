"""`millstream schemas`: the registry's subjects, and what changed from version to version."""

from __future__ import annotations

import json
from typing import Any

from cyclopts import App

from millstream.cli import columns
from millstream.cli.exits import OK
from millstream.cli.impact import impact
from millstream.cli.schemacheck import check_file
from millstream.cli.schemadiff import diff
from millstream.cli.schemahistory import history
from millstream.cli.session import Here
from millstream.cli.status import when
from millstream.cli.subjects import VALUE, found
from millstream.events.types import RowSchema
from millstream.pipelines.definitions import Description
from millstream.schemas.operations import operations
from millstream.schemas.registry import SchemaVersion

app = App(
    name="schemas",
    help="Look at the registered schemas: `schemas list`, `schemas show TOPIC`, `schemas history TOPIC`; before a change is made, ask "
    "what it would do: `schemas impact TOPIC CHANGE`.",
)
app.command(diff)
app.command(history)
app.command(check_file, name="check")
app.command(impact)


@app.command(name="list")
def list_subjects(*, session: Here) -> int:
    """List the schema of every topic: its newest version and since when it is there; then the subjects that are no topic's values.

    Example: `millstream schemas list`
    """
    with session.mesh() as mesh:
        topics = {t.name for t in mesh.topics.topics()}
        newest = [versions[-1] for s in mesh.registry.subjects() if (versions := mesh.registry.versions(s))]
    documents = [
        {"subject": v.subject, "topic": _topic(v.subject, topics), "version": v.version, "id": v.id, "registered_at": when(v.at)}
        for v in newest
    ]
    documents.sort(key=lambda d: (not d["topic"], d["topic"] or d["subject"]))
    rows = [(d["topic"] or d["subject"], d["version"], d["id"], d["registered_at"] or "-") for d in documents]
    session.output.table(("topic", "version", "id", "since"), rows, "no schema is registered yet: `millstream apply` registers the first")
    session.output.document(documents)
    return OK


def _topic(subject: str, topics: set[str]) -> str | None:
    name = subject.removesuffix(VALUE)
    return name if subject.endswith(VALUE) and name in topics else None


@app.command
def show(subject: str, /, *, version: int | None = None, session: Here) -> int:
    """Show a topic's schema: its columns and what is said of them, and how it differs from the version before.

    Example: `millstream schemas show shop.public.orders --version 2`

    Parameters
    ----------
    subject
        A topic, or a subject as `millstream schemas list` names it.
    version
        Another version than the newest.
    """
    with session.mesh() as mesh:
        there = found(mesh, subject)
    chosen = there.versions[-1] if version is None else there.version(version)
    rows = [there.rows(v) for v in there.versions if v.version <= chosen.version][-2:] if there.topic else []
    said = columns.said(session.project, there.topic) if rows else Description()
    out = session.output
    since = f", since {when(chosen.at)}" if chosen.at else ""
    out.say(f"{there.topic or there.name}, version {chosen.version} of {there.versions[-1].version}, id {chosen.id}{since}", "bold")
    if rows:
        if told := columns.sentence(said):
            out.say(told)
        columns.show(out, columns.documents(rows[-1]), "")
        changes = [str(c) for c in operations(rows[-2], rows[-1])] if len(rows) > 1 else []
        for change in changes:
            out.say(f"since version {chosen.version - 1}: {change}")
    else:
        changes = []
        out.say(json.dumps(json.loads(chosen.text), indent=2))
    out.document({**_document(chosen, changes, rows[-1] if rows else None), **(columns.about(said) if rows else {})})
    return OK


def _document(version: SchemaVersion, changes: list[str], schema: RowSchema | None) -> dict[str, Any]:
    return {
        "subject": version.subject,
        "version": version.version,
        "id": version.id,
        "registered_at": when(version.at),
        "columns": columns.documents(schema),
        "changes": changes,
        "schema": json.loads(version.text),
    }
