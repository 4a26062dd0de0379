"""`millstream schemas diff`: what turns one version of a topic's schema into another, as typed operations."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from millstream.cli.columns import fill_document
from millstream.cli.exits import OK
from millstream.cli.session import Here
from millstream.cli.subjects import Subject, found
from millstream.errors import Refused
from millstream.events.types import Field
from millstream.schemas.operations import Operation, operations
from millstream.schemas.registry import SchemaVersion


def diff(
    topic: str,
    /,
    *,
    from_: Annotated[int | None, Parameter(name="--from", show_default=False)] = None,
    to: Annotated[int | None, Parameter(show_default=False)] = None,
    session: Here,
) -> int:
    """Show what turns one version of a topic's schema into another: typed operations, and what each adds or destroys.

    Example: `millstream schemas diff shop.public.orders`

    Example: `millstream schemas diff shop.public.orders --from 1 --to 3`

    Parameters
    ----------
    topic
        As `millstream topics list` names it.
    from_
        The earlier version; without it, the one before the later.
    to
        The later version; without it, the newest.
    """
    with session.mesh() as mesh:
        subject = found(mesh, topic)
    if not subject.topic:
        raise Refused(f"{subject.name} is not the schema of a topic's rows", code="not_rows", cure="name a topic, or its -value")
    later = subject.versions[-1] if to is None else subject.version(to)
    earlier = _before(subject, later.version) if from_ is None else subject.version(from_)
    found_operations = operations(subject.rows(earlier), subject.rows(later))
    out = session.output
    out.say(f"{subject.topic}, version {earlier.version} to {later.version}", "bold")
    rows = [(o.leaf.kind, ".".join(o.path), str(o), o.adds, o.destroys) for o in found_operations]
    out.table(
        ("operation", "column", "", "adds", "destroys"), [(*r[:3], *("yes" if x else "" for x in r[3:])) for r in rows], "no difference"
    )
    out.document(
        {
            "topic": subject.topic,
            "from": earlier.version,
            "to": later.version,
            "operations": [operation_document(o) for o in found_operations],
        }
    )
    return OK


def _before(subject: Subject, number: int) -> SchemaVersion:
    earlier = [v for v in subject.versions if v.version < number]
    if not earlier:
        raise Refused(
            f"{subject.topic} has no version before {number}", code="unknown_version", cure="its first version differs from nothing"
        )
    return earlier[-1]


def operation_document(operation: Operation) -> dict[str, Any]:
    """An operation as JSON. `was` and `now` are the column's, or the innermost member's."""
    leaf = operation.leaf
    return {
        "kind": leaf.kind,
        "path": list(operation.path),
        "text": str(operation),
        "adds": operation.adds,
        "destroys": operation.destroys,
        "in_key": operation.in_key,
        "was": _document(leaf.was) if leaf.was else list(leaf.names_was) or None,
        "now": _document(leaf.now) if leaf.now else list(leaf.names_now) or None,
    }


def _document(field: Field) -> dict[str, Any]:
    return {
        "name": field.name,
        "type": str(field.type),
        "id": field.id,
        "nullable": field.nullable,
        "fill": fill_document(field.fill),
        "doc": field.doc,
        "tags": list(field.tags),
    }
