"""Which table of the definition a Relation message is, and with which schema its rows now come."""

from __future__ import annotations

from collections.abc import Iterable, Set

from millstream.errors import Irrecoverable
from millstream.sources.names import TableName
from millstream.sources.postgres.describe import Catalogue, Described, schema_of
from millstream.sources.postgres.fills import Fills
from millstream.sources.postgres.messages import Relation
from millstream.sources.postgres.translate import Shape, Unfit, identity_lost


class Shapes:
    """One stream's. A table that is renamed while it runs stays the table that it was; one made again takes its place."""

    def __init__(self, names: Iterable[TableName], kept: Set[TableName], catalogue: Catalogue, fills: Fills, where: str) -> None:
        self._kept, self._catalogue, self._fills, self._where = kept, catalogue, fills, where
        self._described: dict[int, Described] = {}
        self._by_place: dict[tuple[str, str], TableName] = {}
        self._ids: dict[int, dict[str, int]] = {}
        for name in names:
            self._by_place[name.schema, name.table] = name
            if (found := catalogue.table(name)) is not None:
                self._described[found.oid] = found
                fills.look(found)

    @property
    def oids(self) -> list[int]:
        """The tables that there were when the stream began, and that it showed since."""
        return list(self._described)

    def resolve(self, relation: Relation) -> Shape | Unfit | None:
        """None for a table that the definition does not name. Raises Irrecoverable where its rows cannot be told whole."""
        name = self._name_of(relation)
        if name is None:
            return None
        if relation.identity not in ("fd" if name in self._kept else "f"):
            raise identity_lost(name, self._where)
        described = self._catalogue.table_of_oid(name, relation.oid) or self._described.get(relation.oid)
        if described is None:
            raise Irrecoverable(
                f"{name.written} was dropped, or made again, after these changes of it: what its key was cannot be known",
                code="table_gone",
                where=f"{self._where} {name.written}",
                cure="start this source afresh: a new slot, new topics, a new initial load",
            )
        self._described[relation.oid] = described
        fills = self._fills.look(described)
        schema = schema_of(relation, described, self._catalogue, self._ids.get(relation.oid, {}), fills)
        if schema is None:
            error = Irrecoverable(
                f"{name.written} has no primary key any more, or had another at this place of the stream",
                code="no_key",
                where=f"{self._where} {name.written}",
            )
            return Unfit(name, error)
        self._ids[relation.oid] = {f.name: f.id for f in schema.fields}
        return Shape(name, schema, name in self._kept)

    def _name_of(self, relation: Relation) -> TableName | None:
        known = self._described.get(relation.oid)
        return known.name if known is not None else self._by_place.get((relation.namespace, relation.name))
