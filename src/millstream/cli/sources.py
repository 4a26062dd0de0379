"""`millstream sources`: what is read, where it stands, and what the server says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cyclopts import App

from millstream.cli import columns
from millstream.cli.exits import OK, exit_code
from millstream.cli.mesh import Mesh
from millstream.cli.session import Here
from millstream.errors import MillstreamError, Refused
from millstream.pipelines import descriptions
from millstream.pipelines.definitions import SourceDefinition
from millstream.pipelines.sql.mistakes import suggestion
from millstream.sources.contract import Table

app = App(name="sources", help="Look at sources: `sources list`, `sources show SOURCE`.")


@app.command(name="list")
def list_sources(*, session: Here) -> int:
    """List every source of the project: its connector, owner and tables, and whether it is applied.

    Example: `millstream sources list`
    """
    with session.mesh() as mesh:
        applied = mesh.catalogue.sources()
        documents: list[dict[str, Any]] = [
            {
                "source": s.name,
                "connector": s.connector,
                "owner": s.owner,
                "domain": s.domain,
                "doc": s.description.doc,
                "tags": list(s.description.tags),
                "tables": list(s.tables),
                "applied": s.name in applied,
            }
            for s in session.project.sources
        ]
    session.output.table(
        ("source", "connector", "owner", "tables", "applied"),
        [(d["source"], d["connector"], d["owner"], "\n".join(d["tables"]), "yes" if d["applied"] else "no") for d in documents],
        "the project has no source: describe one in sources/",
    )
    session.output.document(documents)
    return OK


@app.command
def show(source: str, /, *, session: Here) -> int:
    """Show one source: its options, tables and columns, how far it has been read, and where its server is now.

    Asks the server; where that does not answer, shows what is known without it, and says why.

    Example: `millstream sources show shop`

    Parameters
    ----------
    source
        Its name in the project's files.
    """
    definition = next((s for s in session.project.sources if s.name == source), None)
    if definition is None:
        names = [s.name for s in session.project.sources]
        raise Refused(f"there is no source {source}", code="unknown_source", cure=suggestion(source, names, "sources"))
    out = session.output
    with session.mesh() as mesh:
        record = mesh.topics.producer_record(f"source.{source}")
        state = record.state if record else {}
        tables, head, fault = _asked(mesh, definition)
        options = {name: out.secrets.option(value) for name, value in definition.options.items()}
        document: dict[str, Any] = {
            "source": source,
            "connector": definition.connector,
            **columns.about(replace(definition.description, owner=definition.owner, domain=definition.domain)),
            "options": options,
            "position": state.get("position"),
            "head": head,
            "fault": out.error_document(fault) if fault else None,
            "tables": [_table(mesh, definition, name, tables, state.get("backfills", {})) for name in definition.tables],
        }
    out.say(f"{source} ({definition.connector}, {definition.owner})", "bold")
    if told := columns.sentence(replace(definition.description, owner="", domain=definition.domain)):
        out.say(f"  {told}")
    for name, value in options.items():
        out.say(f"  {name}: {value}")
    out.say(f"  read up to: {_place(document['position'])}")
    out.say(f"  server at:  {_place(head)}")
    if fault:
        out.err.print(out.error_text(fault), soft_wrap=True)
    for table in document["tables"]:
        rows = "" if table["rows"] is None else f", about {table['rows']:,} rows"
        out.say(f"\n{table['table']} → topic {table['topic']}{rows}, before images: {table['grade'] or 'not known'}", "bold")
        if told := columns.sentence(columns.said(session.project, table["topic"])):
            out.say(told)
        columns.show(out, table["columns"], "  columns: not known")
    out.document(document)
    return exit_code(fault) if fault else OK


def _asked(mesh: Mesh, definition: SourceDefinition) -> tuple[Sequence[Table], dict[str, int] | None, MillstreamError | None]:
    """The tables as they are now, the server's present end, and why it does not answer, if it does not."""
    try:
        with mesh.opened(definition.name) as there:
            tables = there.tables()
            major, minor = there.head()
            return tables, {"major": major, "minor": minor}, None
    except MillstreamError as error:
        return (), None, error


def _table(mesh: Mesh, definition: SourceDefinition, name: str, tables: Sequence[Table], backfills: dict[str, Any]) -> dict[str, Any]:
    """What is known of one table: from the server if it answered, else from the registry."""
    topic = f"{definition.name}.{name}"
    known = mesh.topics.topic(topic)
    found = next((t for t in tables if t.name == name), None)
    schema, said = found.schema if found else mesh.schema(topic), columns.said(mesh.project, topic)
    load = backfills.get(name)
    return {
        "table": name,
        "topic": topic,
        "rows": found.rows if found else None,
        "grade": found.grade if found else known.grade if known else None,
        "columns": columns.documents(descriptions.described(schema, said) if schema else None),
        **columns.about(said),
        "initial_load": {"rows": load["rows"], "done": load["done"]} if load else None,
    }


def _place(position: dict[str, Any] | None) -> str:
    return "-" if position is None else f"{position['major']:016x}.{position['minor']:08x}"
