"""`millstream init`: the files of a new project, with examples that explain themselves. Writes nothing over what is there."""

from __future__ import annotations

import re
from pathlib import Path

from millstream.cli.exits import OK
from millstream.cli.session import Here
from millstream.errors import Refused

NAME = re.compile(r"[a-z][a-z0-9_]*")

FILES = {
    "mesh.yaml": """\
# One mesh: everything that this folder declares. Topics, state, catalogue and search index lie in .millstream/ beside this file.
mesh: {name}
""",
    "sources/example.yaml": """\
# A source is a database whose changes are read once, whoever uses them. Each table becomes the topic <source>.<schema>.<table>.
# Take the comment signs away, put your own names in, and look at the result with `millstream validate`.
#
# source: shop                      # the name that topics and SQL begin with
# connector: postgres
# url: ${{SHOP_URL}}                  # from the environment, so that no password stands here:
#                                   #   export SHOP_URL=postgresql://user:password@host:5432/database
# tables: [public.orders, public.customers]
# owner: team-shop
#
# The server needs wal_level = logical, and each table
#   ALTER TABLE public.orders REPLICA IDENTITY FULL;
# `millstream apply` begins with a check of the server, and says what is missing with the statement that mends it.
""",
    "pipelines/example.yaml": """\
# A pipeline computes new topics from topics, and hands them to sinks.
#
# pipeline: large_orders
# owner: team-shop
# steps:
#   - name: large_orders            # becomes the topic large_orders.large_orders
#     sql: |
#       SELECT o.id, o.amount, o.placed_at, c.name AS customer
#       FROM shop.public.orders o
#       LEFT JOIN shop.public.customers c ON c.id = o.customer_id
#     key: [id]                     # what makes a row; needed where tables are joined
# sinks:
#   - {{from: large_orders, search: {{index: orders}}}}
#   - {{from: large_orders, iceberg: {{table: lake.orders, mode: changelog}}}}
#   - {{from: large_orders, jsonl: {{file: orders.jsonl}}}}
""",
    "products/example.yaml": """\
# A product is a document woven from many tables, kept fresh and searched: `millstream search customer "fred"`.
#
# product: customer                 # also the name of its search index
# owner: team-shop
# root:
#   from: shop.public.customers     # each of its rows is a document, with all its columns unless fields: says which
# nest:
#   orders:                         # each: a list, with an item for each row that belongs to the one above
#     from: shop.public.orders
#     on: orders.customer_id = customers.id
#     each: [id, amount, placed_at]
#     order: placed_at DESC
#     limit: 10
#   spent: {{from: shop.public.orders, on: orders.customer_id = customers.id, value: max(amount)}}
""",
    ".gitignore": ".millstream/\n",
}


def init(name: str, /, *, session: Here) -> int:
    """Make a new project: a folder with mesh.yaml, sources/, pipelines/ and products/, and examples to start from.

    What is there already is kept as it is, so a second call does no harm.

    Example: `millstream init studio`, then `cd studio` and `millstream validate`.

    Parameters
    ----------
    name
        The folder to make, or to fill; its last part names the mesh (small letters, digits, underscores).
    """
    folder = session.folder / name
    mesh = folder.resolve().name
    if not NAME.fullmatch(mesh):
        raise Refused(
            f"{mesh!r} cannot name a mesh",
            code="bad_name",
            cure="small letters, digits and underscores, a letter first: studio",
        )
    made, kept = write_files(folder, mesh)
    out = session.output
    for path in made:
        out.say(f"made  {path}", "green")
    for path in kept:
        out.say(f"kept  {path}", "dim")
    out.say(f"\nNext: cd {name}, edit sources/example.yaml, then `millstream validate`, `plan`, `apply`, `run`.")
    out.document({"mesh": mesh, "folder": str(folder), "made": made, "kept": kept})
    return OK


def write_files(folder: Path, mesh: str) -> tuple[list[str], list[str]]:
    """Write what is missing. Returns the names of the files made and of those kept."""
    made, kept = [], []
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text.format(name=mesh))
            made.append(name)
        except FileExistsError:
            kept.append(name)
    return made, kept
