"""products/*.yaml → product definitions: the tree of tables and what each part of the document is made of.

Expressions stay text with places; `products.py` makes SQL of them and the compiler reads that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import yaml

from millstream.components import Component
from millstream.pipelines.definitions import Member, Nest, ProductDefinition, Table, Written
from millstream.pipelines.descriptionfiles import DESCRIBES
from millstream.pipelines.diagnostics import Diagnostic, InvalidProject, Place
from millstream.pipelines.productsinks import ProductSinks
from millstream.pipelines.reading import place_of
from millstream.pipelines.sql.relations import NAME, RESERVED
from millstream.pipelines.yaml import Items, Node, Scalar, Section, documents

STAMP = "_seen"
"""The member of every document that says what it has seen of each source."""

_TABLE_KEYS = ("from", "as", "on")
_MAKES = ("each", "one", "value")
_MAKES_CURE = "each: a list with an item for each row; one: the one row that is pointed to, or null; value: an aggregate, such as count(*)"
_ROOT_ONLY = ("order", "limit")


def read_product(text: str, called: str, env: Mapping[str, str], sinks: tuple[Component, ...]) -> ProductDefinition:
    """The definition that `ProductDefinition.text` came from; `called` stands for the file in mistakes. Raises InvalidProject."""
    return _Kept(env, sinks).read(called, text)


class ProductReading(ProductSinks):
    """Reads documents of the kind `product`."""

    def _product(self, section: Section) -> ProductDefinition | None:
        name = self._name(section, "product", "products.?")
        path = f"products.{name or '?'}"
        self._enter(section, path)
        known = ("product", "owner", "read", "evolve", "compatibility", "root", "nest", "sink", "sinks", "examples", *DESCRIBES)
        self._keys(section, path, known)
        owner = self._text(section, "owner", path)
        read, evolve = self._read_from(section, path), self._evolve(section, path) or "pinned"
        mode, domain = self._compatibility(section, path), self._domain(section, path)
        before = len(self._mistakes)
        root = self._document(section, name, path)
        sinks = tuple(self._product_sinks(section, name, path))
        description = self._description(section, path)
        if not name or root is None or len(self._mistakes) > before:
            return None
        self._aliases(root, {})
        key = self._names(cast(Section, section.entries["root"]), "key", f"{path}.root") if "key" in _entries(section, "root") else None
        built = {k: v for k, v in _data(section).items() if k not in ("examples", "evolve", "compatibility", *DESCRIBES)}
        text = yaml.safe_dump(built, sort_keys=False, allow_unicode=True, width=1000)
        examples, places = section.entries.get("examples"), self._part(path)
        return ProductDefinition(name, owner, read, key, root, sinks, text, places, examples, mode, domain, description, evolve)

    # ---- the tree ---------------------------------------------------------------------------------------------------
    def _document(self, section: Section, name: str, path: str) -> Nest | None:
        node = section.entries.get("root")
        if not isinstance(node, Section):
            cure = "write root: {from: source.schema.table}: each of its rows is a document"
            self._note(node.place if node else section.place, f"{path}.root", "missing", "a product needs a root", cure)
            return None
        here = f"{path}.root"
        self._enter(node, here)
        self._keys(node, here, ("from", "as", "key", "where", "fields", "join"))
        table = self._table(node, here, name)
        fields = node.entries.get("fields")
        members = self._members(fields, f"{here}.fields") if fields else (Member(_all(node.place, f"{here}.fields")),)
        nest = self._nest(section, path)
        if table is None:
            return None
        called = _word(name, place_of(section, "product"), f"{path}.product")
        where = self._expression(node, "where", here)
        root = Nest(called, "root", table, self._joined(node, here), where, members, None, (), None, nest, here)
        self._members_once(root)
        return root

    def _nest(self, section: Section, path: str) -> tuple[Nest, ...]:
        node = section.entries.get("nest")
        if node is None:
            return ()
        if not isinstance(node, Section):
            self._note(node.place, f"{path}.nest", "bad_value", "nest is a list of `name: part`", "write nest: {name: {from: …, on: …}}")
            return ()
        parts = ((name, node.keys[name], part) for name, part in node.entries.items())
        return tuple(p for name, at, part in parts if (p := self._part_of(name, at, part, f"{path}.nest.{name}")))

    def _part_of(self, name: str, at: Place, node: Node, path: str) -> Nest | None:
        self._places[path] = at
        if not isinstance(node, Section):
            self._note(node.place, path, "bad_value", f"{name} is a list of `key: value`", "write from:, on: and each:, one: or value:")
            return None
        self._enter(node, path)
        self._keys(node, path, (*_TABLE_KEYS, "join", "where", *_MAKES, "order", "limit", "nest"))
        table = self._table(node, path, name)
        found = [m for m in _MAKES if m in node.entries]
        if len(found) != 1:
            what = f"{name} makes {' and '.join(found)}" if found else f"{name} does not say what it makes"
            self._note(at, path, "makes_one_thing", f"{what}; it makes one thing", _MAKES_CURE)
            return None
        makes = cast(Literal["each", "one", "value"], found[0])
        members, value = self._content(node.entries[makes], makes, f"{path}.{makes}")
        nest = self._nest(node, path)
        if value is not None and nest:
            cure = f"name the members of {makes}: {{name: expression}}, so that there is a record to put it in"
            self._note(node.keys["nest"], f"{path}.nest", "nothing_to_nest_in", f"{name} makes values, and nest: needs a record", cure)
        for key in _ROOT_ONLY:
            if key in node.entries and makes != "each":
                cure = "leave it out" if makes == "one" else "write ORDER BY inside the aggregate, or make a list with each:"
                self._note(node.keys[key], f"{path}.{key}", "not_a_list", f"{key} belongs to a list, and {makes} makes none", cure)
        joined, where = self._joined(node, path), self._expression(node, "where", path)
        order, limit = tuple(self._order(node, path)), self._limit(node, path)
        if table is None:
            return None
        part = Nest(_word(name, at, path), makes, table, joined, where, members, value, order, limit, nest, path)
        self._members_once(part)
        return part

    def _table(self, node: Section, path: str, name: str) -> Table | None:
        """What `from`, `as` and `on` say. Every table but the root is reached by a condition."""
        topic = self._written(node, "from", path)
        on = None
        if not path.endswith(".root"):
            on = self._written(node, "on", path)
        if topic is None:
            return None
        alias = self._text(node, "as", path, required=False) or topic.text.rpartition(".")[2].strip('"')
        at, where = (node.entries["as"].place, f"{path}.as") if "as" in node.entries else (node.entries["from"].place, f"{path}.from")
        if not NAME.fullmatch(alias) or alias.casefold().startswith(RESERVED):
            cure = f"write as: a name of letters, digits and _, not first a digit, not {RESERVED}…"
            self._note(at, where, "bad_name", f"{alias!r} cannot name a table in expressions", cure)
            return None
        self._places[f"{path}.alias"] = at
        return Table(topic, alias, on, path)

    def _joined(self, node: Section, path: str) -> tuple[Table, ...]:
        join = node.entries.get("join")
        if join is None:
            return ()
        if not isinstance(join, Section):
            cure = "write join: {person: {from: hr.public.person, on: person.id = credit.person_id}}"
            self._note(join.place, f"{path}.join", "bad_value", "join is a list of `name: table`", cure)
            return ()
        tables = []
        for name, part in join.entries.items():
            here = f"{path}.join.{name}"
            self._places[here] = join.keys[name]
            if not isinstance(part, Section):
                self._note(part.place, here, "bad_value", f"{name} is a list of `key: value`", "write from: and on:")
                continue
            self._enter(part, here)
            self._keys(part, here, ("from", "on"))
            named = Section({**part.entries, "as": Scalar(name, name, join.keys[name], name, False)}, part.keys, part.place)
            table = self._table(named, here, name)
            if table is not None:
                tables.append(table)
        return tuple(tables)

    # ---- what a part is made of ----------------------------------------------------------------------------------------
    def _content(self, node: Node, makes: str, path: str) -> tuple[tuple[Member, ...], Written | None]:
        """Members of a record, or the one expression that a text is."""
        if isinstance(node, Scalar) and node.value is not None and node.text.strip() != "*":
            return (), self._scalar(node, path, makes)
        if makes == "value":
            self._note(
                node.place, path, "bad_value", "value is an aggregate of the rows", "write value: count(*), or value: sum(line.amount)"
            )
            return (), None
        return self._members(node, path), None

    def _members(self, node: Node, path: str) -> tuple[Member, ...]:
        """`[column, name: expression, "*"]`, `{name: expression}` or `"*"`."""
        if isinstance(node, Scalar) and node.text.strip() == "*":
            return (Member(_all(node.place, path)),)
        if isinstance(node, Section) and node.entries:
            return tuple(m for name, n in node.entries.items() if (m := self._member(name, node.keys[name], n, f"{path}.{name}")))
        if not isinstance(node, Items) or not node.items:
            cure = 'write [id, title], or {name: expression}, or "*" for all columns'
            self._note(node.place, path, "bad_value", "these are no members of a document", cure)
            return ()
        return tuple(m for i, n in enumerate(node.items) for m in self._item(n, f"{path}[{i}]"))

    def _item(self, node: Node, path: str) -> Iterator[Member]:
        self._places[path] = node.place
        if isinstance(node, Section):
            for name, n in node.entries.items():
                member = self._member(name, node.keys[name], n, f"{path}.{name}")
                if member is not None:
                    yield member
            return
        word = self._scalar(node, path, "a member")
        if word is None:
            return
        if word.text == "*":
            yield Member(word)
            return
        name = word.text.rpartition(".")[2].strip('"')  # person.name is a member called name
        if self._named(name, node.place, path):
            yield Member(replace(word, text=name), word if "." in word.text else None)

    def _member(self, name: str, at: Place, node: Node, path: str) -> Member | None:
        self._places[path] = at
        if not self._named(name, at, path):
            return None
        if isinstance(node, Scalar) and node.value is None:
            return Member(_word(name, at, path))
        value = self._scalar(node, path, name)
        return Member(_word(name, at, path), value) if value else None

    def _named(self, name: str, at: Place, path: str) -> bool:
        if NAME.fullmatch(name) and not name.casefold().startswith(RESERVED):
            return True
        cure = f"write name: expression, with a name of letters, digits and _, not first a digit, not {RESERVED}…"
        self._note(at, path, "bad_name", f"{name!r} cannot name a member of a document", cure)
        return False

    def _order(self, node: Section, path: str) -> Iterator[Written]:
        order = node.entries.get("order")
        if order is None:
            return
        items = order.items if isinstance(order, Items) else (order,)
        for i, item in enumerate(items):
            piece = self._scalar(item, f"{path}.order[{i}]" if isinstance(order, Items) else f"{path}.order", "order")
            if piece is not None:
                yield piece

    def _limit(self, node: Section, path: str) -> int | None:
        limit = node.entries.get("limit")
        if limit is None:
            return None
        if isinstance(limit, Scalar) and isinstance(limit.value, int) and not isinstance(limit.value, bool) and limit.value > 0:
            return limit.value
        self._note(limit.place, f"{path}.limit", "bad_value", "limit is a number of items, 1 or more", "write limit: 20")
        return None

    def _expression(self, node: Section, key: str, path: str) -> Written | None:
        return self._written(node, key, path) if key in node.entries else None

    def _written(self, node: Section, key: str, path: str) -> Written | None:
        found = node.entries.get(key)
        if found is None:
            self._note(node.place, f"{path}.{key}", "missing", f"{key}: is missing", f"add {key}:")
            return None
        return self._scalar(found, f"{path}.{key}", key)

    def _scalar(self, node: Node, path: str, what: str) -> Written | None:
        """A piece of SQL: text, or a number or truth value as it is written."""
        self._places.setdefault(path, node.place)
        if isinstance(node, Scalar) and isinstance(node.value, bool | int | float):
            return Written(node.text, path, node.marks())
        if not self._plain(node, path, what):
            return None
        assert isinstance(node, Scalar)
        return Written(node.text, path, node.marks())

    # ---- checks over several ---------------------------------------------------------------------------------------------
    def _at(self, word: Written) -> Place:
        file = self._places[".".join(word.path.split(".")[:2])].file
        return Place(file, *word.marks[0])

    def _members_once(self, part: Nest) -> None:
        """No two members of one record have one name, columns and nested parts alike."""
        seen = {STAMP: "Millstream's own: it says what the document has seen of each source"} if part.makes == "root" else {}
        names = [*(m.name for m in part.members if m.name.text != "*"), *(n.name for n in part.nest)]
        for name in names:
            if not self._named(name.text, self._at(name), name.path):
                continue
            folded = name.text.casefold()
            if folded in seen:
                why = f"{name.text} is {seen[folded]}" if folded == STAMP else f"two members are called {name.text}"
                self._note(self._at(name), name.path, "name_twice", why, "give it another name")
            seen.setdefault(folded, name.text)

    def _aliases(self, part: Nest, above: Mapping[str, str]) -> None:
        """A table has a name that no table above it has: else an expression could not say which of the two it means."""
        here = dict(above)
        for table in part.tables:
            folded = table.alias.casefold()
            if folded in here:
                path = f"{table.path}.alias"
                cure = "give one of them another name with as:" if table is part.table else "choose another name before the colon"
                message = f"two tables are called {table.alias}: this one and {here[folded]} above it"
                self._note(self._places[path], table.path, "alias_twice", message, cure)
            here.setdefault(folded, table.topic.text)
        for nested in part.nest:
            self._aliases(nested, here)


class _Kept(ProductReading):
    def read(self, called: str, text: str) -> ProductDefinition:
        found = [p for s in documents(called, text, self._mistakes) if (p := self._product(s))]
        if self._mistakes or not found:
            lost = Diagnostic(called, 1, 1, "", "definition_lost", "the catalogue's definition cannot be read", "drop the generation")
            raise InvalidProject(self._mistakes or [lost])
        return found[0]


def _data(node: Node) -> Any:
    """As plain data that says the same when it is read again; numbers that would be written otherwise stay text."""
    if isinstance(node, Section):
        return {k: _data(v) for k, v in node.entries.items()}
    if isinstance(node, Items):
        return [_data(v) for v in node.items]
    if isinstance(node.value, int | float) and not isinstance(node.value, bool) and str(node.value) != node.text:
        return node.text
    return node.value


def _entries(section: Section, key: str) -> Mapping[str, Node]:
    node = section.entries.get(key)
    return node.entries if isinstance(node, Section) else {}


def _word(text: str, at: Place, path: str) -> Written:
    return Written(text, path, tuple((at.line, at.column + i) for i in range(len(text) + 1)))


def _all(at: Place, path: str) -> Written:
    return _word("*", at, path)
