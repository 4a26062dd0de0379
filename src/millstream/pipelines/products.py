"""A product's tree → one SELECT of Millstream SQL, whose every character knows the place in the YAML that it comes from.

One table of the tree is one mention in the SQL: many-to-one parts are LEFT JOINs that give a record or null, lists and aggregates are
correlated subqueries. Tables of one name in different branches get names of their own. What the SQL means is the compiler's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from sqlglot import exp

from millstream.events.types import RowSchema
from millstream.pipelines.definitions import Member, Nest, ProductDefinition, StepDefinition, Table, Written
from millstream.pipelines.diagnostics import Diagnostic, InvalidProject
from millstream.pipelines.sql.dialect import parse
from millstream.pipelines.sql.mistakes import Mistakes
from millstream.pipelines.sql.relations import quoted, table_name, unknown_table

_EXPRESSION, _ORDERING = "SELECT ", "SELECT 1 ORDER BY "


@dataclass(frozen=True)
class _Scope:
    """What expressions of a part may name. `names`: folded name of a table in the tree → its name in the SQL; a column without
    a table is one of `table` (its name in the SQL), whose columns are `schema`'s."""

    names: Mapping[str, str]
    table: str
    schema: RowSchema


_Write = Callable[[], None]


def reads(product: ProductDefinition) -> list[tuple[str, str]]:
    """(topic, path) of each mention of a topic, those inside expressions too."""
    found = [(t.topic.text, t.topic.path) for part in product.root.everywhere() for t in part.tables]
    for piece in _pieces(product.root):
        select = parse(f"SELECT {piece.text}", Mistakes())
        found += [(table_name(t), piece.path) for t in select.find_all(exp.Table)] if select is not None else []
    return found


def step_of(product: ProductDefinition, known: Mapping[str, RowSchema], products: Collection[str] = ()) -> StepDefinition:
    """The step whose SQL makes the documents; `products` are the names of all. Raises InvalidProject for what no SQL can be made of."""
    return _Weave(product, known, products).step()


def _pieces(root: Nest) -> Iterator[Written]:
    for part in root.everywhere():
        yield from (t.on for t in part.tables if t.on)
        yield from (m.value for m in part.members if m.value)
        yield from (piece for piece in (part.where, part.value) if piece)


@dataclass
class _Text:
    """SQL as it grows: the place of every character, and where the text of each path begins."""

    text: list[str] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)
    parts: list[tuple[int, str]] = field(default_factory=list)

    def add(self, text: str, at: Written) -> None:
        """Text of our own, all of it at the beginning of `at`."""
        self._append(text, [at.marks[0]] * len(text), at.path)

    def quote(self, at: Written, scope: _Scope, before: str = "", after: str = "\n") -> None:
        """A piece as it was written, with the tables' names in the SQL. The line ends with it, for a comment may stand there."""
        self.add(before, at)
        end = 0
        for start, stop, text in _changes(at, scope):
            self._append(at.text[end:start], at.marks[end:start], at.path)
            self._append(text, [at.marks[start]] * len(text), at.path)
            end = stop
        self._append(at.text[end:], at.marks[end : len(at.text)], at.path)
        self._append(after, [at.marks[-1]] * len(after), at.path)

    def _append(self, text: str, marks: Sequence[tuple[int, int]], path: str) -> None:
        if text and (not self.parts or self.parts[-1][1] != path):
            self.parts.append((len(self.marks), path))
        self.text.append(text)
        self.marks += marks


class _Weave:
    def __init__(self, product: ProductDefinition, known: Mapping[str, RowSchema], products: Collection[str]) -> None:
        self._product, self._known, self._products = product, known, products
        self._diagnostics: list[Diagnostic] = []
        self._out = _Text()
        self._scopes: dict[str, _Scope] = {}  # by the path of the table

    def step(self) -> StepDefinition:
        root = self._product.root
        self._check(root)
        if self._diagnostics:
            raise InvalidProject(self._diagnostics)
        self._name_tables(root, {}, {t.alias.casefold() for part in root.everywhere() for t in part.tables})
        self._document(root)
        text = "".join(self._out.text)
        marks = (*self._out.marks, self._out.marks[-1])
        return StepDefinition(
            self._product.name, text, self._product.key, root.path, marks, tuple(self._out.parts), self._product.description
        )

    def _name_tables(self, part: Nest, above: Mapping[str, str], taken: set[str]) -> None:
        """Scopes, each table with a name that no other has: its alias, or where another branch has it, that and a number."""
        given = {s.table.casefold() for s in self._scopes.values()}
        names = dict(above)
        for table in part.tables:
            name, number = table.alias, 2
            while name.casefold() in (given if name == table.alias else taken | given):
                name, number = f"{table.alias}_{number}", number + 1
            given.add(name.casefold())
            names[table.alias.casefold()] = name
        for table in part.tables:
            self._scopes[table.path] = _Scope(names, names[table.alias.casefold()], self._known[table.topic.text])
        for nested in part.nest:
            self._name_tables(nested, names, taken)

    def _scope(self, part: Nest) -> _Scope:
        return self._scopes[part.table.path]

    # ---- the SQL --------------------------------------------------------------------------------------------------
    def _document(self, root: Nest) -> None:
        out = self._out
        out.add("SELECT ", self._fields_at(root))
        for i, (name, write) in enumerate(self._record(root)):
            out.add(",\n  " if i else "", name)
            write()
            out.add(f" AS {quoted(name.text)}", name)
        self._from(root)
        if root.where:
            out.quote(root.where, self._scope(root), "\nWHERE ")

    def _from(self, part: Nest) -> None:
        """The tables of one query: the part's own, those joined to it, and those of the many-to-one parts below."""
        out = self._out
        for i, (table, condition) in enumerate(_rows(part)):
            scope, topic = self._scopes[table.path], table.topic
            out.add("\nLEFT JOIN " if i else "\nFROM ", topic)
            out.add(f"{'.'.join(map(quoted, topic.text.split('.')))} AS {quoted(scope.table)}", topic)
            if i and table.on:
                out.quote(table.on, scope, " ON (", "\n)")
                if condition:
                    out.quote(condition, scope, " AND (", "\n)")

    def _record(self, part: Nest) -> Iterator[tuple[Written, _Write]]:
        """Each member's name and what writes its expression."""
        scope = self._scope(part)
        named = {m.name.text for m in part.members} | {n.name.text for n in part.nest}
        for m in part.members:
            if m.value:
                yield m.name, partial(self._out.quote, m.value, scope)
            elif m.name.text == "*":  # the columns that no other member is named after
                yield from ((replace(m.name, text=c), self._column(scope, c, m.name)) for c in scope.schema.names if c not in named)
            else:
                yield m.name, self._column(scope, m.name.text, m.name)
        for nested in part.nest:
            yield nested.name, partial(self._nested, nested)

    def _column(self, scope: _Scope, name: str, at: Written) -> _Write:
        return partial(self._out.add, f"{quoted(scope.table)}.{quoted(_column(scope.schema, name))}", at)

    def _nested(self, part: Nest) -> None:
        out, scope = self._out, self._scope(part)
        if part.makes == "one":
            out.add(f"CASE WHEN {quoted(scope.table)}.{quoted(scope.schema.key[0])} IS NULL THEN NULL ELSE ", part.name)
            self._content(part)
            out.add(" END", part.name)
            return
        out.add("list_slice((" if part.limit else "(", part.name)
        self._rows_of(part)
        out.add(f"), 1, {part.limit})" if part.limit else ")", part.name)

    def _rows_of(self, part: Nest) -> None:
        """A list or an aggregate of the rows that belong to one row above."""
        out, scope, on = self._out, self._scope(part), part.table.on
        assert on is not None
        out.add("SELECT ", part.name)
        if part.makes == "each":
            out.add("list(", part.name)
            self._content(part)
            out.add(" ORDER BY ", part.name)
            self._order(part)
            out.add(")", part.name)
        else:
            self._content(part)
        self._from(part)
        out.quote(on, scope, "\nWHERE (", "\n)")
        if part.where:
            out.quote(part.where, scope, " AND (", "\n)")

    def _content(self, part: Nest) -> None:
        if part.value:
            self._out.quote(part.value, self._scope(part))
            return
        for i, (name, write) in enumerate(self._record(part)):
            self._out.add(f"{', ' if i else '{'}{quoted(name.text)}: ", name)
            write()
        self._out.add("}", part.name)

    def _order(self, part: Nest) -> None:
        """As asked for, then by the keys of all tables that may have several rows: two rows never stand anyhow."""
        for piece in part.order:
            self._out.quote(piece, self._scope(part), after="\n, ")
        scopes = [self._scopes[t.path] for t in (part.table, *(t for t in part.joined if not self._by_whole_key(t)))]
        self._out.add(", ".join(f"{quoted(s.table)}.{quoted(k)}" for s in scopes for k in s.schema.key), part.name)

    def _by_whole_key(self, table: Table) -> bool:
        """Whether the join finds at most one row: each key column is equal to something."""
        assert table.on is not None
        select = parse(_EXPRESSION + table.on.text, Mistakes())
        bound = set()
        for equal in select.find_all(exp.EQ) if select is not None and not select.find(exp.Or, exp.Not, exp.Case) else ():
            bound |= {c.name for c in (equal.this, equal.expression) if isinstance(c, exp.Column) and _is(c.table, table.alias)}
        return set(self._known[table.topic.text].key) <= bound

    # ---- what no SQL can be made of -----------------------------------------------------------------------------------
    def _check(self, root: Nest) -> None:
        for part in root.everywhere():
            for table in part.tables:
                head = table.topic.text.partition(".")[0]
                if head in self._products:
                    message = f"{head} is a product: its topic changes with each generation"
                    self._note(table.topic, 0, "reads_product", message, "read the tables that it is made of")
                elif table.topic.text not in self._known:
                    quiet = Mistakes()
                    unknown_table(table.topic.text, self._known, quiet, exp.Null())
                    self._note(table.topic, 0, quiet.found[0].code, quiet.found[0].message, quiet.found[0].cure)
        for piece in _pieces(root):
            self._one_expression(piece)
        for part in root.everywhere():
            for piece in part.order:
                self._one_expression(piece, before=_ORDERING)
        self._key(root)

    def _one_expression(self, piece: Written, before: str = _EXPRESSION) -> None:
        quiet = Mistakes()
        select = parse(before + piece.text, quiet)
        for m in quiet.found:
            self._note(piece, m.offset - len(before), m.code, m.message, m.cure)
        if select is None:
            return
        given = {name for name, value in select.args.items() if value} - {"expressions", "order", "kind"}
        ordering = before == _ORDERING
        alone = (
            len(select.expressions) == 1 and not isinstance(select.expressions[0], exp.Alias) and bool(select.args.get("order")) == ordering
        )
        if given or not alone:
            what = "an ordering, such as credit.position DESC" if ordering else "one expression, without a name of its own"
            cure = "put brackets round a subquery; a member's name stands before the colon"
            self._note(piece, 0, "not_an_expression", f"this is not {what}", cure)

    def _key(self, root: Nest) -> None:
        """The document holds the key of its root's row."""
        schema = self._known.get(root.table.topic.text)
        if schema is None:
            return
        held = {k for m in root.members for k in self._carried(m, root, schema)}
        missing = [k for k in schema.key if k not in held]
        if missing:
            message = f"the documents leave out {', '.join(missing)}, of the key of {root.table.topic.text}"
            self._note(self._fields_at(root), 0, "key_missing", message, f"add {', '.join(missing)} to fields:")

    def _carried(self, member: Member, root: Nest, schema: RowSchema) -> Iterable[str]:
        if member.name.text == "*":
            return schema.names
        if member.value is None:
            return [_column(schema, member.name.text)]
        select = parse(f"SELECT {member.value.text}", Mistakes())
        column = select.expressions[0] if select is not None and select.expressions else None
        own = isinstance(column, exp.Column) and (not column.table or _is(column.table, root.table.alias))
        return [_column(schema, column.name)] if own and column is not None else []

    def _fields_at(self, root: Nest) -> Written:
        return replace(root.members[0].name, path=f"{root.path}.fields") if root.members else root.name

    def _note(self, at: Written, offset: int, code: str, message: str, cure: str) -> None:
        line, column = at.marks[max(0, min(offset, len(at.marks) - 1))]
        file = self._product.places[self._product.path].file
        self._diagnostics.append(Diagnostic(file, line, column, at.path, code, message, cure))


def _changes(piece: Written, scope: _Scope) -> Iterator[tuple[int, int, str]]:
    """(start, stop, text in the SQL) of what is written otherwise there: a table's name, and the table before a bare column."""
    before = _ORDERING if piece.path.partition(".order")[1] else _EXPRESSION
    select = parse(before + piece.text, Mistakes())
    if select is None:
        return  # noted when the piece was checked
    own = {t.alias_or_name.casefold() for t in select.find_all(exp.Table)}  # of a subquery in the piece
    found = []
    for column in select.find_all(exp.Column):
        first = column.parts[0]
        start, stop = first.meta["start"] - len(before), first.meta["end"] + 1 - len(before)
        if column.table and column.table.casefold() not in own:
            found.append((start, stop, quoted(scope.names.get(column.table.casefold(), column.table))))
        elif not column.table and column.find_ancestor(exp.Select) is select and _column(scope.schema, column.name) in scope.schema.names:
            found.append((start, start, f"{quoted(scope.table)}."))
    yield from sorted(found)


def _rows(part: Nest, condition: Written | None = None) -> Iterator[tuple[Table, Written | None]]:
    """The tables of one query, and what else than its `on` the join of each asks for."""
    yield part.table, condition
    yield from ((table, None) for table in part.joined)
    for nested in part.nest:
        if nested.makes == "one":
            yield from _rows(nested, nested.where)


def _column(schema: RowSchema, name: str) -> str:
    """The column's name, without regard to case where none is written so."""
    if name in schema.names:
        return name
    return next((n for n in schema.names if n.casefold() == name.casefold()), name)


def _is(name: str, alias: str) -> bool:
    return name.casefold() == alias.casefold()
