"""Our registry, served in this process as `millstream registry serve` serves it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millstream.schemas.avrocompat import check
from millstream.schemas.rest.endpoints import Api
from millstream.schemas.rest.server import app, served
from millstream.schemas.rest.settings import Settings
from millstream.schemas.rest.subjects import Subjects
from millstream.schemas.sql import SqlRegistry, sqlite_engine

OWNED = "shop.public.orders-value"


@contextmanager
def our_registry(folder: Path, token: str | None = None) -> Iterator[tuple[str, SqlRegistry]]:
    """Its address, and the registry that pipelines use beside it."""
    engine = sqlite_engine(folder / "mesh.db")
    registry = SqlRegistry(engine)
    api = Api(Subjects(registry.database, check, lambda subject: subject == OWNED), Settings(registry.database))
    try:
        with served(app(api, token), "127.0.0.1:0") as address:
            yield address, registry
    finally:
        engine.dispose()
