"""`millstream products`: the generations of each product, and which of them is searched."""

from __future__ import annotations

from typing import Any

from cyclopts import App

from millstream.catalogue.generations import as_applied, drop
from millstream.catalogue.store import AppliedProduct
from millstream.cli import running
from millstream.cli.exits import OK
from millstream.cli.mesh import Mesh
from millstream.cli.session import Here
from millstream.cli.status import when
from millstream.errors import Refused
from millstream.pipelines.rollout import generation_name
from millstream.pipelines.sql.mistakes import suggestion

app = App(
    name="products",
    help="Look at products and their generations: `products list`, `show NAME`; lead searches back with `rollback NAME`; `drop NAME`.",
)


@app.command(name="list")
def list_products(*, session: Here) -> int:
    """List every product that is applied: which generation is searched, which is being built, which is kept.

    Example: `millstream products list`
    """
    with session.mesh() as mesh:
        products = list(mesh.catalogue.products().values())
    rows = [(p.name, _live(p), _next(p), ", ".join(map(str, _kept(p))), when(p.changed_at)) for p in products]
    headings = ("product", "live", "being built", "kept", "changed")
    session.output.table(headings, rows, "no product is applied yet: describe one in products/*.yaml")
    session.output.document([_document(p) for p in products])
    return OK


@app.command
def show(name: str, /, *, session: Here) -> int:
    """Show a product's generations: what each was built from, and what its parts say.

    Example: `millstream products show movie`

    Parameters
    ----------
    name
        The product's name.
    """
    with session.mesh() as mesh:
        product, states, applied = _found(mesh, name), mesh.catalogue.states(), mesh.catalogue.pipelines()
    out = session.output
    generations: list[dict[str, Any]] = []
    for number, text in sorted(product.generations.items()):
        called = generation_name(name, number)
        parts = [f"pipeline.{called}", *(f"sink.{s}" for s in (applied[called].sinks if called in applied else {}))]
        said = {part: (f"{s.state}: {s.reason}" if s.reason else s.state) if (s := states.get(part)) else "never started" for part in parts}
        out.say(f"{called}: {_what(product, number)}", "bold")
        for part, state in said.items():
            out.say(f"  {part}: {state}")
        out.say("\n".join(f"  {line}" for line in out.secrets.blot(text).splitlines()))
        explanation = applied[called].definition if called in applied else ""
        generations.append(
            {"generation": number, "is": _what(product, number), "parts": said, "definition": text, "explanation": explanation}
        )
    out.document({**_document(product), "generations": generations})
    return OK


@app.command
def rollback(name: str, /, *, session: Here) -> int:
    """Lead searches back to the generation that was searched before, in one step. Both go on running; a second call leads forward again.

    The files stay as they are: `apply` leaves it at that until they change.

    Example: `millstream products rollback movie`

    Parameters
    ----------
    name
        The product's name.
    """
    with session.mesh() as mesh:
        mesh.switches.settle()
        product = _found(mesh, name)
        other = _other(product, "rollback")
        if other == product.next:
            raise Refused(
                f"{generation_name(name, other)} is still being built: there is nothing to go back to",
                code="nothing_kept",
                where=f"product {name}",
                cure=f"put the files back and `apply`, or `millstream products drop {name}` to give it up",
            )
        if not mesh.switches.to(name, other):
            raise Refused("the product was switched by somebody else", code="product_changed", where=f"product {name}", cure="look again")
    session.output.say(f"searches find {generation_name(name, other)} now", "green")
    session.output.document({"product": name, "live": other, "kept": product.live})
    return OK


@app.command(name="drop")
def drop_generation(name: str, /, *, session: Here) -> int:
    """Drop the generation that is not searched: the one kept for going back, or the one being built.

    Its topic stays; its state and index are removed when the next `run` begins.

    Example: `millstream products drop movie`

    Parameters
    ----------
    name
        The product's name.
    """
    with session.mesh() as mesh:
        mesh.switches.settle()
        other = _other(_found(mesh, name), "drop")
        called = generation_name(name, other)
        drop(mesh.catalogue, mesh.topics, called)
        is_running = running.is_held(mesh.place.running)
    session.output.say(f"dropped {called}", "green")
    if is_running:
        session.output.warn("a process runs it until it is stopped: stop it and start `millstream run` again")
    session.output.document({"product": name, "dropped": other, "restart_needed": is_running})
    return OK


def _found(mesh: Mesh, name: str) -> AppliedProduct:
    products = mesh.catalogue.products()
    if name not in products:
        raise Refused(f"no product {name} is applied", code="unknown_product", cure=suggestion(name, products, "products"))
    return products[name]


def _other(product: AppliedProduct, what: str) -> int:
    """The generation that is not searched."""
    others = [g for g in product.generations if g != product.live]
    if not product.live or not others:
        only = ", ".join(generation_name(product.name, g) for g in product.generations)
        raise Refused(
            f"there is only {only}: nothing to {what}",
            code="one_generation",
            where=f"product {product.name}",
            cure="a changed definition makes another at the next `apply`; to stop the product, take its file away",
        )
    return others[0]


def _what(product: AppliedProduct, generation: int) -> str:
    if generation == product.live:
        return "live: searches find it"
    return (
        "being built: searches switch to it when it is caught up" if generation == product.next else "kept: `products rollback` leads to it"
    )


def _kept(product: AppliedProduct) -> list[int]:
    return [g for g in sorted(product.generations) if g not in (product.live, product.next)]


def _live(product: AppliedProduct) -> int | None:
    return product.live or None


def _next(product: AppliedProduct) -> int | None:
    return product.next or None


def _document(product: AppliedProduct) -> dict[str, Any]:
    now = as_applied(product)
    return {
        "product": product.name,
        "live": now.live or None,
        "next": now.next or None,
        "kept": _kept(product),
        "changed_at": when(product.changed_at),
    }
