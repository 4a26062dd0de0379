"""Our registry, served in this process as `millstream registry serve` serves it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from millstream.schemas.avrocompat import check
from millstream.schemas.rest.endpoints import Api
from millstream.schemas.rest.server import app, served
from millstream.schemas.rest.settings import Settings
from millstream.schemas.rest.subjects import Subjects
from millstream.schemas.sql import SqlRegistry, sqlite_engine

OWNED = "shop.public.orders-value"


@contextmanager
def our_registry(folder: Path, token: str | None = None) -> Iterator[tuple[str, SqlRegistry]]:
    """Its address, and the registry that pipelines use beside it; in a file in that folder."""
    engine = sqlite_engine(folder / "mesh.db")
    try:
        with served_over(engine, token) as served_now:
            yield served_now
    finally:
        engine.dispose()


@contextmanager
def served_over(engine: sa.Engine, token: str | None = None) -> Iterator[tuple[str, SqlRegistry]]:
    registry = SqlRegistry(engine)
    api = Api(Subjects(registry.database, check, lambda subject: subject == OWNED), Settings(registry.database))
    with served(app(api, token), "127.0.0.1:0") as address:
        yield address, registry
