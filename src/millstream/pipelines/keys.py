"""What identifies a row of a step, proven: its key, the unit that is recomputed at once, and the roots that units are taken from.

A row of a join is identified by keys of its tables, as far as equalities do not fix them; a group by what it is grouped by; a row of a
Top-N by its partition and its tables' keys; a row of a FULL JOIN by the USING columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from millstream.events.types import RowSchema, numbered
from millstream.pipelines.plan import Computed, Root
from millstream.pipelines.sql.groups import By
from millstream.pipelines.sql.mistakes import Mistakes, suggestion
from millstream.pipelines.sql.places import without_alias
from millstream.pipelines.sql.query import Column, Query
from millstream.pipelines.sql.refusals import REFUSALS
from millstream.pipelines.sql.relations import RESERVED, Relation
from millstream.pipelines.sql.typed import Place
from millstream.pipelines.sql.types import FLOATS, KEY_TYPES
from millstream.pipelines.sql.unions import telling

Note = Callable[[int | None, str, str, str], None]
"""note(i, code, message, cure): a mistake in the i-th name of `key:`, or in all of it."""


@dataclass(frozen=True)
class Asked:
    """`key:` of a step as written, and where its mistakes go."""

    names: tuple[str, ...]
    note: Note


@dataclass(frozen=True)
class Key:
    """`names` of the output's columns, in key order. The rest is for a stateful step: see `plan.Stateful`."""

    names: tuple[str, ...]
    unit: tuple[str, ...] = ()
    roots: tuple[Root, ...] = ()
    computed: tuple[Computed, ...] = ()


def key_of(query: Query, asked: Asked | None, mistakes: Mistakes) -> Key | None:
    """None and mistakes where there is no sound key."""
    return _Keys(query, asked, mistakes).key()


class _Keys:
    def __init__(self, query: Query, asked: Asked | None, mistakes: Mistakes) -> None:
        self._query, self._asked, self._mistakes = query, asked, mistakes
        self._columns = {c.name: c for c in query.columns}
        self._relations = {r.alias: r for r in query.block.scope.met}
        self._proof = replace(query.block.proof, fixed=frozenset()) if query.stateless else query.block.proof

    def key(self) -> Key | None:
        parts = self._parts()
        names = self._inferred(parts) if self._asked is None else self._given(self._asked, parts)
        if names is None or not self._sound(names):
            return None
        if self._query.stateless:
            return Key(names)
        if self._query.block.full:
            return self._of_sides(names)
        return self._of_parts(names, parts) if self._query.by else self._of_rows(names)

    def _parts(self) -> list[By] | None:
        """What the query is grouped or partitioned by, less what the rest of it identifies; None: it is neither."""
        parts = list({b.value.sql: b for b in self._query.by}.values())
        for by in parts[::-1]:
            others = {p for b in parts if b is not by and b.column for p in [b.column]}
            places, aliases = replace(self._proof, fixed=frozenset()).identified(others)
            if by.column and (by.column in places or by.column[0] in aliases):
                parts.remove(by)
        return parts if self._query.by else None

    # ---- which columns --------------------------------------------------------------------------------------------------
    def _inferred(self, parts: list[By] | None) -> tuple[str, ...] | None:
        if self._query.block.full:
            found = [(name, self._carrier(value.sql)) for name, value in self._query.block.scope.merged.items()]
            lacking = [name for name, column in found if column is None]
            if lacking:
                self._mistakes.refuse(self._query.offset, "using_missing", columns=", ".join(lacking))
                return None
            return tuple(c for _, c in found if c)
        names: list[str] = []
        for by in parts or ():
            name = self._carrier(by.value.sql) or (self._place_carrier(by.column) if by.column else None)
            if name is None:
                self._mistakes.refuse(self._query.offset, "group_missing", column=by.node.sql("duckdb"))
                return None
            names.append(name)
        if self._query.grouped:
            return tuple(names)
        given = [b.column for b in parts or () if b.column]
        root = [] if parts is not None else [(self._query.root.alias, c) for c in self._query.root.schema.key]
        wanted = root + self._proof.completed([*given, *root])
        carried = {p: self._place_carrier(p) for p in wanted}
        self._missing([p for p, name in carried.items() if name is None])
        return (*names, *(n for n in carried.values() if n)) if all(carried.values()) else None

    def _carrier(self, sql: str) -> str | None:
        return next((c.name for c in self._query.columns if c.sql == sql), None)

    def _place_carrier(self, place: Place) -> str | None:
        """The first output column that is the column at `place`, or equal to it in every row."""
        own = next((c.name for c in self._query.columns if c.source == place), None)
        equal = self._proof.equal(place)
        return own or next((c.name for c in self._query.columns if c.source in equal), None)

    def _missing(self, places: Sequence[Place]) -> None:
        """Notes columns that identify a row and are not in the output: the first table's, else of the join that multiplies."""
        root = self._query.root
        own = [c for alias, c in places if alias == root.alias]
        if own:
            computed = [c.name for c in self._query.columns if c.source is None and c.name in own]
            prefix = f"{root.shown}." if self._query.block.joins else ""
            names = ", ".join(prefix + m for m in own)
            message = f"the key of {root.input} is not among the columns: {', '.join(own)} is missing"
            cure = f"add {names} to the SELECT list" + (f" as it is: {', '.join(computed)} is computed" if computed else "")
            self._mistakes.add(self._query.offset, "key_missing", message, cure)
            return
        for join in self._query.block.joins:
            r = join.relation
            missing = [c for alias, c in places if alias == r.alias]
            if missing:
                tied = {p[1] for t in self._proof.ties for p in (t.left, t.right) if p[0] == r.alias}
                self._mistakes.refuse(
                    join.offset, "many_rows_per_key", name=r.shown, root=root.shown, on=", ".join(sorted(tied)),
                    key=", ".join(r.schema.key), missing=", ".join(missing), columns=", ".join(f"{r.shown}.{m}" for m in missing),
                )  # fmt: skip

    def _given(self, asked: Asked, parts: list[By] | None) -> tuple[str, ...] | None:
        unknown = [(i, name) for i, name in enumerate(asked.names) if name not in self._columns]
        for i, name in unknown:
            cure = suggestion(name, self._columns, "columns")
            asked.note(i, "unknown_column", f"the step has no column {name}", cure)
        if unknown:
            return None
        wanted = self._inferred(parts) if parts is not None or self._query.block.full else None
        if (parts is not None or self._query.block.full) and wanted is None:
            return None
        columns = [self._columns[n] for n in asked.names]
        lacking = [n for n in wanted or () if not self._says(columns, self._columns[n])]
        if parts is None and not self._query.block.full:
            before = len(self._mistakes.found)
            places = {p for c in columns if c.source for p in [c.source]}
            missing = self._proof.completed(places)
            carried = [(p, self._place_carrier(p)) for p in missing]
            self._missing([p for p, name in carried if name is None and p[0] != self._query.root.alias])
            if len(self._mistakes.found) > before:
                return None
            lacking = [name or p[1] for p, name in carried]
        if lacking:
            self._not_unique(asked, lacking)
            return None
        return asked.names

    def _says(self, columns: Sequence[Column], wanted: Column) -> bool:
        """Whether one of `columns` is `wanted` or equal to it."""
        equal = self._proof.equal(wanted.source) if wanted.source else set()
        return any(c.sql == wanted.sql or (c.source is not None and c.source in equal) for c in columns)

    def _not_unique(self, asked: Asked, lacking: Sequence[str]) -> None:
        whose = f" of the key of {self._query.root.input}" if not self._query.by and not self._query.block.joins else ""
        message = f"key [{', '.join(asked.names)}] leaves out {', '.join(lacking)}{whose}: several rows could have one key"
        cure = f"add {', '.join(lacking)} to key:, and to the SELECT list if it is not there"
        asked.note(None, "key_not_unique", message, cure)

    # ---- whether they can be a key --------------------------------------------------------------------------------------
    def _sound(self, names: Sequence[str]) -> bool:
        """Whether no column may be null or has a type whose equality cannot be relied on."""
        sound = True
        for i, name in enumerate(names):
            column = self._columns[name]
            relation = self._relations.get(column.source[0]) if column.source else None
            own = column.source is not None and relation is not None and column.source[1] in relation.schema.key
            if column.type.kind in FLOATS or (not own and column.type.kind not in KEY_TYPES):
                found = _said("key_type", column=name, type=str(column.type))
            elif column.nullable:
                found = self._nullable(column, relation)
            else:
                continue
            sound = False
            if self._asked is None:
                self._mistakes.add(self._at(column), *found)
            else:
                self._asked.note(i, *found)
        return sound

    def _at(self, column: Column) -> int:
        """Where a mistake in a key column is told: where it is grouped by, else where it is selected."""
        return next((b.offset for b in self._query.by if b.value.sql == column.sql), column.offset)

    def _nullable(self, column: Column, relation: Relation | None) -> tuple[str, str, str]:
        by = next((b for b in self._query.by if b.value.sql == column.sql), None)
        outer = relation is not None and relation.nullable and relation.alias not in self._query.block.scope.required
        if not by and not outer:
            cure = f"keep nulls out: WHERE {column.name} IS NOT NULL, or coalesce"
            return "nullable_key", f"key column {column.name} may be null", cure
        key = ("group_nullable_side" if outer else "nullable_group") if by else "nullable_side_key"
        shown = by.node.sql("duckdb") if by else column.name
        return _said(key, column=shown, table=relation.shown if relation else "")

    # ---- units and roots ------------------------------------------------------------------------------------------------
    def _of_sides(self, names: tuple[str, ...]) -> Key | None:
        """FULL JOIN: units come from each side, by its own columns of USING."""
        block = self._query.block
        unit = tuple(n for n in names if self._columns[n].sql in {v.sql for v in block.scope.merged.values()})
        merged = {value.sql: name for name, value in block.scope.merged.items()}
        sides = [block.scope.met[0], *(j.relation for j in block.joins if j.kind == "FULL")]
        roots = []
        for r in sides:
            by_name = {c.casefold(): c for c in r.schema.names}
            roots.append(Root(r.alias, tuple(by_name[merged[self._columns[n].sql]] for n in unit)))
        return Key(names, unit, tuple(roots))

    def _of_parts(self, names: tuple[str, ...], parts: list[By] | None) -> Key | None:
        assert parts is not None
        aliases = {alias for by in parts for alias, _ in by.places}
        if len(aliases) > 1:
            shown = ", ".join(sorted(self._relations[a].shown if a in self._relations else "a subquery" for a in aliases))
            self._mistakes.refuse(parts[0].offset, "group_of_several_tables", tables=shown)
            return None
        relation = self._relations[aliases.pop()]
        if relation.nullable and relation.alias not in self._query.block.scope.required:
            self._mistakes.refuse(parts[0].offset, "group_nullable_side", column=parts[0].node.sql("duckdb"), table=relation.shown)
            return None
        unit: list[str] = []
        columns: list[str] = []
        computed: list[tuple[By, Computed]] = []
        for name in names:
            by = next((b for b in parts if self._says([self._columns[name]], self._as_column(b))), None)
            if by is None or by in [b for b, _ in computed]:
                continue
            if by.column:
                if by.column[1] in columns:
                    continue
                columns.append(by.column[1])
            else:
                made = f"{RESERVED}by{len(computed) + 1}"
                assert by.value.type is not None
                own = without_alias(by.value.sql, relation.alias)
                computed.append((by, Computed(relation.input, made, own, by.value.type)))
                columns.append(made)
            unit.append(name)
        return Key(names, tuple(unit), (Root(relation.alias, tuple(columns)),), tuple(c for _, c in computed))

    def _as_column(self, by: By) -> Column:
        assert by.value.type is not None
        return Column("", by.value.sql, by.value.type, by.value.nullable, by.column, by.offset)

    def _of_rows(self, names: tuple[str, ...]) -> Key | None:
        """The root is a table whose own key the step's key carries; best one whose key is all of it, so that a unit is one row."""
        best: tuple[tuple[bool, bool, int], Root, tuple[str, ...]] | None = None
        for r in self._query.block.scope.met:
            if r.nullable and r.alias not in self._query.block.scope.required:
                continue
            columns = self._carried(r, names)
            fixed = {p[1] for p, of in self._proof.fixed if p[0] == r.alias and of in (None, r.alias)}
            whole = {c for _, c in columns} | fixed >= set(r.schema.key)
            if whole:
                columns = [(n, c) for n, c in columns if c in r.schema.key]
            score = (whole and len(columns) == len(names), whole, len(columns))
            if columns and (best is None or score > best[0]):
                best = score, Root(r.alias, tuple(c for _, c in columns)), tuple(n for n, _ in columns)
        if best is None:
            message = f"no column of the key [{', '.join(names)}] is of a table that is always there"
            self._mistakes.add(self._query.offset, "key_missing", message, f"add the key of {self._query.root.shown} to the SELECT list")
            return None
        return Key(names, best[2], (best[1],))

    def _carried(self, relation: Relation, names: Sequence[str]) -> list[tuple[str, str]]:
        """(output column, column of the relation) for the key columns that are the relation's, or equal to one of its."""
        found: dict[str, str] = {}
        for name in names:
            source = self._columns[name].source
            own = sorted(c for alias, c in (self._proof.equal(source) if source else ()) if alias == relation.alias)
            at = source[1] if source and source[0] == relation.alias else next(iter(own), None)
            if at is not None and at not in found.values():
                found[name] = at
        return list(found.items())


def _said(refusal: str, **values: str) -> tuple[str, str, str]:
    row = REFUSALS[refusal]
    return row.code, row.message.format(**values), row.cure.format(**values)


def union_key(
    queries: Sequence[Query], was: Sequence[Query], keys: Sequence[Key], asked: Asked | None, mistakes: Mistakes
) -> tuple[str, ...] | None:
    """The key of UNION ALL: the literal that differs in each branch, and every column that is in the key of one.

    `queries` are the branches as `aligned`, `was` as they were; `keys` are theirs, by the aligned names.
    """
    names, literals = [c.name for c in queries[0].columns], telling(queries)
    if not literals:
        mistakes.refuse(queries[1].offset, "union_literal", column=names[0])
        return None
    literal = next((n for n in literals if asked and n in asked.names), literals[0])
    wanted = {literal, *(n for k in keys for n in k.names)}
    found = tuple(n for n in names if n in wanted)
    if asked is not None:
        unknown = [(i, n) for i, n in enumerate(asked.names) if n not in names]
        for i, n in unknown:
            asked.note(i, "unknown_column", f"the step has no column {n}", suggestion(n, names, "columns"))
        lacking = [n for n in found if n not in asked.names]
        if lacking and not unknown:
            message = f"key [{', '.join(asked.names)}] leaves out {', '.join(lacking)}: several rows could have one key"
            asked.note(None, "key_not_unique", message, f"add {', '.join(lacking)} to key:")
        if lacking or unknown:
            return None
        found = asked.names
    sound = True
    for query, before, key in zip(queries, was, keys, strict=True):
        for column, own in zip(query.columns, before.columns, strict=True):
            if column.name in found and (column.nullable or column.type.kind not in KEY_TYPES):
                mistakes.refuse(own.offset, "union_key", column=column.name)
                sound = False
            elif column.name in key.unit and column.type != own.type:
                mistakes.refuse(own.offset, "union_key_type", column=column.name, type=str(own.type), other=str(column.type))
                sound = False
    return found if sound else None


def evolved(columns: Sequence[Column], key: tuple[str, ...], history: Sequence[RowSchema]) -> RowSchema:
    """The row schema: a column that the last version has, by name, keeps its id; a new one gets an id never used."""
    return RowSchema(numbered([(c.name, c.type) for c in columns], [version.fields for version in history]), key)
