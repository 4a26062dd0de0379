"""`millstream searches`: searches that are kept, and hold every changed document against themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from cyclopts import App, Parameter

from millstream.cli.exits import OK
from millstream.cli.mesh import Mesh
from millstream.cli.output import counted
from millstream.cli.search import index_of
from millstream.cli.session import Here, Session
from millstream.errors import Refused
from millstream.pipelines.definitions import SearchDefinition
from millstream.pipelines.searches import FOLDER, matches_topic
from millstream.pipelines.sql.mistakes import suggestion
from millstream.sinks.files import replace_file
from millstream.sinks.search.query import Question

app = App(
    name="searches",
    help="Saved searches, in searches/*.yaml: `searches save NAME PRODUCT QUERY`, `list`, `show NAME`, `remove NAME`. What they match is a "
    "topic, PRODUCT.matches.",
)


@app.command(name="list")
def list_searches(*, session: Here) -> int:
    """List every saved search.

    Example: `millstream searches list`
    """
    searches = session.project.searches
    rows = [(s.name, s.product, s.query, s.owner) for s in searches]
    session.output.table(("search", "product", "query", "owner"), rows, "no search is saved: `millstream searches save` one")
    session.output.document([_document(s) for s in searches])
    return OK


@app.command
def show(name: str, /, *, session: Here) -> int:
    """Show one saved search: its query, how many documents it finds now, and what its runner says of it.

    Example: `millstream searches show cheap_flights`

    Parameters
    ----------
    name
        The search's name.
    """
    search = _found(session, name)
    with session.mesh() as mesh:
        state = mesh.catalogue.states().get(f"search.{name}")
        found = mesh.ask(index_of(session, search.product), Question(search.query, limit=1)).total
    out = session.output
    out.say(f"{search.name}: {search.query}", "bold")
    out.say(f"finds {counted(found, 'document')} of {search.product}; its matches are told in {matches_topic(search.product)}")
    if state is not None and state.reason:
        out.say(state.reason, "red")
        out.say(f"  cure: {state.cure}", "green")
    reason = state.reason if state is not None else ""
    out.document({**_document(search), "documents": found, "topic": matches_topic(search.product), "reason": reason})
    return OK


@app.command
def save(
    name: str,
    product: str,
    query: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)],
    /,
    *,
    owner: str = "",
    session: Here,
) -> int:
    """Save a search, as searches/NAME.yaml, or save it anew. A running mesh takes it up within seconds; the first of a product
    after `apply`.

    Example: `millstream searches save cheap movie "price < 10 AND genre = drama" --owner team-deals`

    Parameters
    ----------
    name
        Small letters, digits and underscores.
    product
        The product that is searched.
    query
        As for `millstream search`.
    owner
        Whose it is. Needed the first time.
    """
    text = " ".join(query)
    if product not in (names := [p.name for p in session.project.products]):
        raise Refused(f"there is no product {product}", code="unknown_product", cure=suggestion(product, names, "products"))
    old = next((s for s in session.project.searches if s.name == name), None)
    path = _file(session, name)
    if not owner and old is None:
        raise Refused("a saved search has an owner", code="missing", where="--owner", cure="say whose it is: --owner team-deals")
    if old is not None and old.place.file != f"{FOLDER}/{name}.yaml":
        raise Refused(f"search {name} is there already", code="name_twice", where=old.place.file, cure="change it there")
    with session.mesh() as mesh:
        found = mesh.ask(index_of(session, product), Question(text, limit=1)).total  # and so every mistake in it is found
        told = _told(mesh, product)
    path.parent.mkdir(exist_ok=True)
    definition = {"search": name, "product": product, "query": text, "owner": owner or (old.owner if old else "")}
    # Whole or not at all: a running mesh reads it as soon as it is there.
    replace_file(path, yaml.safe_dump(definition, sort_keys=False, allow_unicode=True, width=1000).encode())
    out = session.output
    out.say(f"saved {name}: it finds {counted(found, 'document')} now", "green")
    if not told:
        out.warn(f"{matches_topic(product)} is not there yet: `millstream apply`, and run again")
    out.document({**definition, "documents": found, "file": f"{FOLDER}/{name}.yaml", "apply_needed": not told})
    return OK


@app.command
def remove(name: str, /, *, session: Here) -> int:
    """Remove a saved search: what it matched is told to match no longer.

    Example: `millstream searches remove cheap`

    Parameters
    ----------
    name
        The search's name.
    """
    search = _found(session, name)
    path = session.folder / search.place.file
    if len([s for s in session.project.searches if s.place.file == search.place.file]) > 1:
        raise Refused(
            f"{search.place.file} holds other searches too", code="file_shared", where=f"{search.place}", cure="take it out there"
        )
    path.unlink()
    session.output.say(f"removed {name}", "green")
    session.output.document({"search": name, "file": search.place.file})
    return OK


def _found(session: Session, name: str) -> SearchDefinition:
    searches = {s.name: s for s in session.project.searches}
    if name not in searches:
        raise Refused(f"there is no saved search {name}", code="unknown_search", cure=suggestion(name, list(searches), "searches"))
    return searches[name]


def _file(session: Session, name: str) -> Path:
    if not name.replace("_", "a").isalnum() or not name.islower() or not name[0].isalpha() or not name.isascii():
        raise Refused(f"{name!r} cannot name a search", code="bad_name", cure="small letters, digits and underscores, a letter first")
    return session.folder / FOLDER / f"{name}.yaml"


def _told(mesh: Mesh, product: str) -> bool:
    return mesh.topics.topic(matches_topic(product)) is not None


def _document(search: SearchDefinition) -> dict[str, str]:
    return {"search": search.name, "product": search.product, "query": search.query, "owner": search.owner, "file": search.place.file}
