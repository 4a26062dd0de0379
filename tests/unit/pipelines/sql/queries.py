"""Random queries of every construct over small tables. The same text is Millstream SQL and DuckDB's, save that a nested list over
no rows is empty here and null there: `oracle` says so.
"""

from __future__ import annotations

import random
import re

from millstream.events.types import Field, RowSchema, Type

INT, TEXT = Type("int32"), Type("text")
TABLES = {
    "a": RowSchema((Field("id", INT, 1), Field("x", INT, 2), Field("y", INT, 3), Field("s", TEXT, 4)), ("id",)),
    "b": RowSchema((Field("k", INT, 1), Field("n", INT, 2), Field("x", INT, 3), Field("s", TEXT, 4)), ("k", "n")),
    "c": RowSchema((Field("id", INT, 1), Field("ref", INT, 2), Field("x", INT, 3)), ("id",)),
}
NUMBERS = {t: [f.name for f in schema.fields if f.type == INT] for t, schema in TABLES.items()}


def oracle(sql: str) -> str:
    """The text for DuckDB itself: [[ … ]] is around nested lists."""
    return re.sub(r"\]\]", ", [])", re.sub(r"\[\[", "coalesce(", sql))


def plain(sql: str) -> str:
    return sql.replace("[[", "").replace("]]", "")


class Writer:
    def __init__(self, rng: random.Random) -> None:
        self.rng, self._count = rng, 0

    def alias(self) -> str:
        self._count += 1
        return f"t{self._count}"

    def column(self, alias: str, table: str) -> str:
        return f"{alias}.{self.rng.choice(NUMBERS[table])}"

    def condition(self, met: dict[str, str], depth: int) -> str:
        one, two = (self.rng.choice(list(met)) for _ in range(2))
        left, right = self.column(one, met[one]), self.column(two, met[two])
        match self.rng.randrange(8 if depth else 5):
            case 0:
                return f"{left} > {self.rng.randint(0, 2)}"
            case 1:
                return f"({left} IS NULL OR {right} > 0)"
            case 2:
                return f"{left} = {right}"
            case 3:
                return f"{left} IS NOT NULL"
            case 4:
                return f"coalesce({left}, 7) <> {right}"
            case 5 | 6:
                return f"{self.rng.choice(['', 'NOT '])}EXISTS ({self.inner('1', met, depth - 1)})"
            case _:
                item, table = self.alias(), self.rng.choice(list(TABLES))
                rest = f" WHERE {self.condition({item: table}, depth - 1)}" if self.rng.random() < 0.5 else ""
                inside = f"SELECT {self.column(item, table)} FROM {table} {item}{rest}"
                return f"{self.rng.choice(['', f'{left} > 1 OR '])}{right} IN ({inside})"

    def inner(self, item: str, outer: dict[str, str], depth: int, alone: bool = False) -> str:
        """A correlated subquery; {t} in `item` is its first table's alias, {k} its tables' keys."""
        table, alias = self.rng.choice(list(TABLES)), self.alias()
        met = {alias: table}
        out = self.rng.choice(list(outer))
        tie = f"{self.column(alias, table)} = {self.column(out, outer[out])}"
        if self.rng.random() < 0.2:
            tie += f" AND {self.column(alias, table)} = {self.column(out, outer[out])}"
        join = ""
        if self.rng.random() < 0.4:
            other, called = self.rng.choice(list(TABLES)), self.alias()
            side = self.rng.choice(["", "LEFT "])
            join = f" {side}JOIN {other} {called} ON {self.column(called, other)} = {self.column(alias, table)}"
            if self.rng.random() < 0.3:
                join += f" AND {self.column(called, other)} {self.rng.choice('=>')} {self.column(out, outer[out])}"
            met[called] = other
        seen = met if alone else {**outer, **met}
        more = f" AND ({self.condition(seen, depth)})" if self.rng.random() < 0.6 else ""
        keys = ", ".join(f"{a}.{k}" for a, t in met.items() for k in TABLES[t].key)
        text = item.replace("{t}", alias).replace("{k}", keys).replace("{x}", self.column(alias, table))
        if "{nested}" in text:
            text = text.replace("{nested}", self.nested(met, depth - 1))
        return f"SELECT {text} FROM {table} {alias}{join} WHERE {tie}{more}"

    def nested(self, outer: dict[str, str], depth: int) -> str:
        """A nested aggregate."""
        order = self.rng.choice(["{k}", "{x} DESC, {k}", "coalesce({x}, 1), {k}"])
        item = self.rng.choice(["count(*)", "sum({x})", "max({x})", "list", "list", "list", "1 + count({x})", "coalesce(min({x}), 5)"])
        if item != "list":
            return f"({self.inner(item, outer, depth, alone=True)})"
        value = self.rng.choice(["{x}", "{{v: {x}, w: {x} + 1}}".replace("{{", "{").replace("}}", "}")])
        if depth > 0 and self.rng.random() < 0.6:
            value = "{v: {x}, more: {nested}}"
        return f"[[({self.inner(f'list({value} ORDER BY {order})', outer, depth, alone=True)})]]"

    def joins(self, first: str, alias: str, multiply: bool) -> tuple[dict[str, str], str]:
        met, text = {alias: first}, ""
        for _ in range(self.rng.randint(0, 2) if not multiply else self.rng.randint(1, 2)):
            table, called = self.rng.choice(list(TABLES)), self.alias()
            key = TABLES[table].key if not multiply else [self.rng.choice(NUMBERS[table])]
            parts = []
            for column in key:
                if self.rng.random() < 0.15 and len(key) > 1:
                    parts.append(f"{called}.{column} = {self.rng.randint(0, 2)}")
                other = self.rng.choice(list(met))
                if not parts or self.rng.random() < 0.9:
                    parts.append(f"{self.column(other, met[other])} = {called}.{column}")
            if self.rng.random() < 0.3:
                other = self.rng.choice(list(met))
                parts.append(f"{called}.x > {self.column(other, met[other])}")
            side = self.rng.choice(["LEFT ", ""]) if not multiply else self.rng.choice(["LEFT ", "", "", ""])
            text += f" {side}JOIN {table} {called} ON {' AND '.join(parts)}"
            met[called] = table
        return met, text

    def where(self, met: dict[str, str], depth: int) -> str:
        return f" WHERE {self.condition(met, depth)}" if self.rng.random() < 0.5 else ""

    # ---- whole queries --------------------------------------------------------------------------------------------
    def rows(self, multiply: bool = False) -> str:
        first, alias = self.rng.choice(list(TABLES)), self.alias()
        met, joins = self.joins(first, alias, multiply)
        items = [f"{a}.{k} AS {a}_{k}" for a, t in met.items() for k in TABLES[t].key]
        items += [f"{self.column(a, t)} AS v_{a}" for a, t in met.items()]
        for i in range(self.rng.randint(0, 2)):
            items.append(f"{self.nested(met, 2)} AS n{i}")
        if self.rng.random() < 0.3:
            items.append(f"EXISTS ({self.inner('1', met, 1)}) AS e")
        return f"SELECT {', '.join(items)} FROM {first} {alias}{joins}{self.where(met, 2)}"

    def pairs(self) -> str:
        return self.rows(multiply=True)

    def groups(self) -> str:
        first, alias = self.rng.choice(list(TABLES)), self.alias()
        met, joins = self.joins(first, alias, self.rng.random() < 0.5)
        one = self.rng.choice(list(met))
        by = [
            self.rng.choice([f"coalesce({self.column(one, met[one])}, -1)", self.column(one, met[one])])
            for _ in range(self.rng.randint(1, 2))
        ]
        by = list(dict.fromkeys(by))
        if self.rng.random() < 0.2:
            by += [f"{one}.{k}" for k in TABLES[met[one]].key if f"{one}.{k}" not in by]
        items = [f"{g} AS g{i}" for i, g in enumerate(by)]
        keys = ", ".join(f"{a}.{k}" for a, t in met.items() for k in TABLES[t].key)
        two = self.rng.choice(list(met))
        value = self.column(two, met[two])
        pool = [
            "count(*)", f"count(DISTINCT {value})", f"sum({value})", f"max({value}) + 1", f"min({value})", f"list({value} ORDER BY {keys})",
            f"count({value}) FILTER (WHERE {value} > 1)", f"string_agg(CAST({value} AS TEXT), '-' ORDER BY {value}, {keys})",
            f"{{n: count(*), m: max({value})}}", f"list({{v: {value}}} ORDER BY {value} DESC, {keys})",
        ]  # fmt: skip
        items += [f"{v} AS v{i}" for i, v in enumerate(self.rng.sample(pool, self.rng.randint(1, 3)))]
        having = f" HAVING count(*) > {self.rng.randint(0, 2)} OR max({value}) IS NULL" if self.rng.random() < 0.4 else ""
        where = f" WHERE {by[-1]} IS NOT NULL" if self.rng.random() < 0.6 else self.where(met, 1)
        names = ", ".join(self.rng.choice([g, str(i + 1)]) for i, g in enumerate(by))
        return f"SELECT {', '.join(items)} FROM {first} {alias}{joins}{where} GROUP BY {names}{having}"

    def top(self) -> str:
        first, alias = self.rng.choice(list(TABLES)), self.alias()
        met, joins = self.joins(first, alias, self.rng.random() < 0.4)
        one = self.rng.choice(list(met))
        part = self.rng.choice([f"coalesce({self.column(one, met[one])}, -1)", self.column(one, met[one])])
        keys = ", ".join(f"{a}.{k}" for a, t in met.items() for k in TABLES[t].key)
        order = self.rng.choice([keys, f"{self.column(one, met[one])} DESC, {keys}", f"{self.column(one, met[one])} NULLS FIRST, {keys}"])
        items = [f"{part} AS part"] + [f"{a}.{k} AS {a}_{k}" for a, t in met.items() for k in TABLES[t].key]
        over = f"row_number() OVER (PARTITION BY {part} ORDER BY {order})"
        if self.rng.random() < 0.4:
            items.append(f"{over} AS place")
            over = "place"
        where = f" WHERE {part} IS NOT NULL" if self.rng.random() < 0.6 else self.where(met, 1)
        return f"SELECT {', '.join(items)} FROM {first} {alias}{joins}{where} QUALIFY {over} {self.rng.choice(['<= 2', '= 1', '< 3'])}"

    def full(self) -> str:
        left, right = "a", "c"
        if self.rng.random() < 0.3:
            left, right = self.rng.choice([("a", "a"), ("c", "a")])
        one, two, third = self.alias(), self.alias(), self.alias()
        join = self.rng.choice(["", f" LEFT JOIN c {third} ON {third}.id = {one}.x", f" FULL JOIN c {third} USING (id)"])
        items = f"id, {self.column(one, left)} AS l, {self.column(two, right)} AS r" + (f", {third}.x AS z" if join else "")
        if self.rng.random() < 0.4:
            items += f", {self.nested({one: left, two: right}, 1)} AS n"
        return f"SELECT {items} FROM {left} {one} FULL JOIN {right} {two} USING (id){join}{self.where({one: left, two: right}, 1)}"

    def within(self) -> str:
        """A WITH query, read once or twice, or a query in FROM."""
        column = self.rng.choice(["x", "y"])
        inner = self.rng.choice([
            f"SELECT {column} AS g, count(*) AS n, max(s) AS m FROM a WHERE {column} IS NOT NULL GROUP BY {column}",
            "SELECT id AS g, x AS n, s AS m FROM a WHERE x > 0",
            "SELECT coalesce(a.x, 0) AS g, count(*) AS n, max(c.x) AS m FROM a LEFT JOIN c ON c.ref = a.id GROUP BY 1",
        ])  # fmt: skip
        return self.rng.choice([
            f"WITH q AS ({inner}) SELECT c.id, q.n, r.m, r.n + 1 AS more FROM c LEFT JOIN q ON q.g = c.ref LEFT JOIN q r ON r.g = c.x",
            f"SELECT d.n, list(d.g ORDER BY d.g) AS gs FROM ({inner}) d WHERE d.n IS NOT NULL GROUP BY d.n",
            f"WITH q AS ({inner}), r AS (SELECT g, n FROM q WHERE n > 1) SELECT r.g, q.m FROM r JOIN q ON q.g = r.g",
            f"WITH q AS ({inner}) SELECT id, (SELECT sum(q.n) FROM q WHERE q.g = c.x) AS n FROM c "
            "WHERE EXISTS (SELECT 1 FROM q WHERE q.g = c.ref)",
        ])  # fmt: skip

    def union(self) -> str:
        branches = [
            "'a' AS kind, id, s AS v, x FROM a WHERE x > 0",
            "'c', id, NULL_TEXT, ref FROM c".replace("NULL_TEXT", "CAST(x AS TEXT)"),
            "'n', coalesce(x, 0), max(s), count(*) FROM a GROUP BY coalesce(x, 0)",
            "'b', c.id, b.s, b.x FROM c JOIN b ON b.k = c.ref AND b.n = c.x",
        ]
        picked = self.rng.sample(branches, self.rng.randint(2, 3))
        picked[0] = re.sub(r"^('.') ?(AS kind)?, ([^ ]+( AS id)?)", r"\1 AS kind, \3", picked[0])
        first = {"a": branches[0], "c": "'c' AS kind, id, CAST(x AS TEXT) AS v, ref AS x FROM c",
                 "n": "'n' AS kind, coalesce(x, 0) AS id, max(s) AS v, count(*) AS x FROM a GROUP BY coalesce(x, 0)",
                 "b": "'b' AS kind, c.id, b.s AS v, b.x FROM c JOIN b ON b.k = c.ref AND b.n = c.x"}[picked[0][1]]  # fmt: skip
        text = " UNION ALL ".join(f"SELECT {b}" for b in [first, *picked[1:]])
        return self.rng.choice([text, f"SELECT kind, id, v FROM ({text}) u WHERE id > 0"])


CONSTRUCTS = ("rows", "pairs", "groups", "top", "full", "within", "union")


def write(construct: str, rng: random.Random) -> str:
    return str(getattr(Writer(rng), construct)())
