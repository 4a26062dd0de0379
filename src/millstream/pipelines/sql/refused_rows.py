"""What is refused of queries, joins, keys and UNION, as data."""

from __future__ import annotations

from millstream.pipelines.sql.refusal import NOT, STEP, C, M, P, Refusal

_JOIN = "write FROM a JOIN b ON b.id = a.b_id, or LEFT JOIN"
_ORDER = "a topic has no order over keys: order where it is read; for the first n of a group: QUALIFY row_number() OVER (…) <= n"
_LIMIT = "filter with WHERE; for the first n of a group: QUALIFY row_number() OVER (PARTITION BY … ORDER BY …) <= n"

QUERIES = {
    "not_select": Refusal(
        "a query that begins with {word}" + NOT, "a step's SQL is [WITH …] SELECT … FROM …", f"¦DELETE FROM {M}", values={"word": "DELETE"}
    ),
    "second_statement": Refusal(
        "a second statement" + NOT, "a step's SQL is one query; make another step", f"SELECT id FROM {M}; SELECT ¦id FROM {M}"
    ),
    "no_from": Refusal("there is no FROM", "a step reads a topic or an earlier step: SELECT … FROM source.schema.table", "SELECT ¦1 AS x"),
    "recursive": Refusal(
        "WITH RECURSIVE" + NOT + ": how far a change reaches would be unbounded",
        "write as many joins as there are levels",
        f"WITH RECURSIVE ¦x AS (SELECT id FROM {M}) SELECT id FROM x",
    ),
    "materialized": Refusal(
        "MATERIALIZED" + NOT,
        "leave it out: a WITH query that is used twice is kept once",
        f"WITH ¦x AS MATERIALIZED (SELECT id FROM {M}) SELECT id FROM x",
    ),
    "with_inside": Refusal(
        "WITH inside a subquery" + NOT,
        "put WITH in front of the whole query",
        f"SELECT id FROM {M} m WHERE EXISTS (WITH ¦x AS (SELECT id FROM {P}) SELECT 1 FROM x WHERE x.id = m.id)",
    ),
    "renamed_columns": Refusal(
        "renaming columns in FROM or WITH" + NOT, "name columns with AS in the SELECT list", f"SELECT a FROM {M} AS ¦m(a)"
    ),
    "not_a_table": Refusal(
        "anything but a table, a step or a query in FROM" + NOT,
        "name a topic or a step, or write (SELECT …) AS name",
        "SELECT x FROM ¦range(3)",
    ),
    "distinct": Refusal(
        "DISTINCT" + NOT, "write GROUP BY with the columns of the SELECT list, which then are the key", f"SELECT DISTINCT ¦year FROM {M}"
    ),
    "order_by": Refusal("ORDER BY" + NOT, _ORDER, f"SELECT id FROM {M} ORDER BY ¦id"),
    "limit": Refusal("LIMIT" + NOT + ": a row that comes would push another out of all", _LIMIT, f"SELECT id FROM {M} LIMIT ¦5"),
    "offset": Refusal("OFFSET" + NOT + ": a row that comes would move all others", _LIMIT, f"SELECT id FROM {M} OFFSET ¦5"),
    "sample": Refusal("SAMPLE" + NOT, "filter by a key: WHERE id % 100 = 0", f"SELECT id FROM {M} TABLESAMPLE ¦10%"),
    "pivot": Refusal(
        "PIVOT" + NOT,
        "write one aggregate per column: sum(x) FILTER (WHERE kind = 'a') AS a",
        f"SELECT id FROM {M} PIVOT (¦count(id) FOR year IN (1999))",
    ),
    "lateral": Refusal(
        "LATERAL" + NOT,
        "write a nested list, (SELECT list({{…}} ORDER BY …) FROM … WHERE …), or a join",
        f"SELECT m.id FROM {M} m, LATERAL (SELECT ¦1 AS x) q",
    ),
    "clause": Refusal("{name}" + NOT, "leave it out", f"SELECT ¦id FROM {M} FOR UPDATE", values={"name": "LOCKS"}),
}
JOINS = {
    "right_join": Refusal(
        "RIGHT JOIN" + NOT,
        "put the table whose rows must all be there first, and LEFT JOIN the other",
        f"SELECT p.id FROM {M} m RIGHT JOIN ¦{P} p ON p.id = m.director_id",
    ),
    "cross_join": Refusal("CROSS JOIN" + NOT + ": one change would concern every row", _JOIN, f"SELECT m.id FROM {M} m CROSS JOIN ¦{P} p"),
    "comma": Refusal(
        "a comma or a JOIN without ON" + NOT + ": one change would concern every row",
        _JOIN,
        f"SELECT m.id FROM {M} m, ¦{P} p WHERE p.id = m.director_id",
    ),
    "natural_join": Refusal(
        "NATURAL JOIN" + NOT + ": a new column would change its meaning", _JOIN, f"SELECT m.id FROM {M} m NATURAL JOIN ¦{P} p"
    ),
    "asof_join": Refusal(
        "ASOF JOIN" + NOT,
        "take the newest by QUALIFY row_number() OVER (PARTITION BY … ORDER BY at DESC, id) = 1 in a WITH query, and join that",
        f"SELECT m.id FROM {M} m ASOF JOIN ¦{P} p ON p.id >= m.id",
    ),
    "positional_join": Refusal(
        "POSITIONAL JOIN" + NOT + ": rows of a topic have no place", _JOIN, f"SELECT m.id FROM {M} m POSITIONAL JOIN ¦{P} p"
    ),
    "semi_join": Refusal(
        "SEMI JOIN" + NOT,
        "write WHERE EXISTS (SELECT 1 FROM b WHERE b.id = a.b_id)",
        f"SELECT m.id FROM {M} m SEMI JOIN ¦{P} p ON p.id = m.id",
    ),
    "anti_join": Refusal(
        "ANTI JOIN" + NOT,
        "write WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.id = a.b_id)",
        f"SELECT m.id FROM {M} m ANTI JOIN ¦{P} p ON p.id = m.id",
    ),
    "using": Refusal("USING of an INNER or LEFT JOIN" + NOT, "write ON a.x = b.x", f"SELECT m.id FROM {M} m JOIN ¦{P} p USING (id)"),
    "full_join_on": Refusal(
        "FULL JOIN … ON" + NOT + ": a row of one side alone would have no key",
        "write FULL JOIN b USING (id): its columns, of whichever side is there, are the key",
        f"SELECT p.id FROM {M} m FULL JOIN ¦{P} p ON p.id = m.id",
    ),
    "full_join_after": Refusal(
        "a FULL JOIN after another kind of join, or USING other columns" + NOT,
        "join whole first: FROM a FULL JOIN b USING (id) LEFT JOIN c ON …; else " + STEP,
        f"SELECT id FROM {M} m LEFT JOIN {P} p ON p.id = m.director_id FULL JOIN ¦{P} q USING (id)",
    ),
    "full_join_key": Refusal(
        "FULL JOIN USING ({using}) where the key of {table} is ({key}): its rows would not be one for one",
        "USING must name the whole key of both sides: GROUP BY it in a WITH query first",
        f"SELECT movie_id FROM {C} c FULL JOIN ¦{C} d USING (movie_id)",
        "many_rows_per_key",
        {"using": "movie_id", "table": "c", "key": "movie_id, number"},
    ),
    "full_join_inside": Refusal(
        "FULL JOIN in a subquery" + NOT,
        STEP,
        f"SELECT m.id FROM {M} m WHERE EXISTS (SELECT ¦1 FROM {M} x FULL JOIN {P} p USING (id) WHERE x.id = m.id)",
    ),
    "subquery_in_on": Refusal(
        "a subquery in ON" + NOT,
        "put it into WHERE, or " + STEP,
        f"SELECT m.id FROM {M} m JOIN {P} p ON p.id = m.director_id AND EXISTS (SELECT ¦1 FROM {C} c WHERE c.person_id = p.id)",
    ),
    "join_without_equality": Refusal(
        "{table} is joined without an equality between a column of its own and one of an earlier table",
        "join by a column: ON {column} = …; if a side is computed, make it a column of a WITH query first",
        f"SELECT m.id FROM {M} m JOIN {P} p ON ¦p.id > m.director_id",
        "join_without_equality",
        {"table": "p", "column": "p.id"},
    ),
    "join_types": Refusal(
        "join keys of different types: {left} is {mine}, {right} is {other}",
        "a key is looked up as it is: CAST {right} to {mine} in a WITH query, and join that",
        f"SELECT p.id FROM {P} p JOIN {M} m ON ¦m.id = p.small",
        "type_clash",
        {"left": "m.id", "mine": "int64", "right": "p.small", "other": "int32"},
    ),
    "many_rows_per_key": Refusal(
        "{name} may have several rows per {root}: it is joined on {on}, its key is ({key}); its rows would have no key",
        "join {name} on its whole key ({missing} is missing), or add {columns} to the SELECT list, where it becomes part of the key, "
        "or put {name} first, or nest its rows: (SELECT list({{…}} ORDER BY …) FROM … WHERE …)",
        f"SELECT m.id, c.role FROM {M} m JOIN ¦{C} c ON c.movie_id = m.id",
        "many_rows_per_key",
        {"name": "c", "root": "m", "on": "movie_id", "key": "movie_id, number", "missing": "number", "columns": "c.number"},
    ),
    "unreached": Refusal(
        "no equality leads to {table}: one change in it would concern every row",
        "tie it by an equality to a table that is tied: WHERE {table}.x = …",
        f"SELECT m.id FROM {M} m WHERE EXISTS (SELECT ¦1 FROM {C} c JOIN {P} p ON p.id = m.director_id)",
        "join_without_equality",
        {"table": "c"},
    ),
}
KEYS = {
    "key_type": Refusal(
        "key column {column} is {type}, which cannot identify a row",
        "use a decimal, an integer or text",
        f"SELECT rating, count(*) AS n FROM {M} WHERE rating > 1 GROUP BY ¦rating",
        "key_type",
        {"column": "rating", "type": "float64"},
    ),
    "nullable_side_key": Refusal(
        "key column {column} may be null: {table} is LEFT JOINed",
        "write JOIN, or nest its rows: (SELECT list({{…}} ORDER BY …) FROM … WHERE …)",
        f"SELECT p.id AS person, ¦m.id FROM {P} p LEFT JOIN {M} m ON m.director_id = p.id",
        "nullable_key",
        {"column": "id", "table": "m"},
    ),
    "nullable_group": Refusal(
        "{column} may be null, and a null cannot be a key",
        "say what stands for it: GROUP BY coalesce({column}, …), and select the same; or WHERE {column} IS NOT NULL",
        f"SELECT year, count(*) AS n FROM {M} GROUP BY ¦year",
        "nullable_key",
        {"column": "year"},
    ),
    "group_nullable_side": Refusal(
        "{column} is of {table}, which is LEFT JOINed: its rows may be missing",
        "put {table} first and LEFT JOIN the other table, or write JOIN",
        f"SELECT p.id, count(*) AS n FROM {M} m LEFT JOIN {P} p ON p.id = m.director_id GROUP BY ¦p.id",
        "nullable_key",
        {"column": "p.id", "table": "p"},
    ),
    "group_missing": Refusal(
        "{column} is grouped or partitioned by and is not in the SELECT list, so a row has no key",
        "add {column} to the SELECT list",
        f"SELECT ¦count(*) AS n FROM {M} GROUP BY id",
        "key_missing",
        {"column": "id"},
    ),
    "group_of_several_tables": Refusal(
        "the groups are by columns of {tables}",
        "group by columns of one table: join in a WITH query, and group that",
        f"SELECT c.role, p.name, count(*) AS n FROM {C} c JOIN {P} p ON p.id = c.person_id "
        "WHERE c.role > '' AND p.name > '' GROUP BY ¦c.role, p.name",
        "not_in_subset",
        {"tables": "c, p"},
    ),
    "using_missing": Refusal(
        "the columns of USING are the key; {columns} is not in the SELECT list",
        "add {columns} to the SELECT list, without a table's name",
        f"SELECT ¦m.title FROM {M} m FULL JOIN {P} p USING (id)",
        "key_missing",
        {"columns": "id"},
    ),
}
UNIONS = {
    "union": Refusal(
        "UNION, which drops equal rows," + NOT,
        "write UNION ALL, with a literal that tells the branches apart: SELECT 'a' AS kind, …",
        f"SELECT 'a' AS kind, id FROM {M} UNION SELECT ¦'b' AS kind, id FROM {P}",
    ),
    "intersect_except": Refusal(
        "INTERSECT and EXCEPT" + NOT,
        "write WHERE EXISTS or NOT EXISTS (SELECT 1 FROM … WHERE …)",
        f"SELECT id FROM {M} EXCEPT SELECT ¦id FROM {P}",
    ),
    "union_by_name": Refusal(
        "UNION BY NAME" + NOT,
        "give both branches their columns in one order",
        f"SELECT 'a' AS kind, id FROM {M} UNION ALL BY NAME SELECT ¦'b' AS kind, id FROM {P}",
    ),
    "union_columns": Refusal(
        "this branch has {count} columns, the first one {first}",
        "give all branches the same columns",
        f"SELECT 'a' AS kind, id FROM {M} UNION ALL SELECT ¦id FROM {P}",
        "type_clash",
        {"count": "1", "first": "2"},
    ),
    "union_types": Refusal(
        "{column} is {type} here and {first} in the first branch",
        "CAST one to the other's type",
        f"SELECT 'a' AS kind, id, title FROM {M} UNION ALL SELECT 'b' AS kind, id, ¦small FROM {P}",
        "type_clash",
        {"column": "title", "type": "int32", "first": "text"},
    ),
    "union_literal": Refusal(
        "nothing tells the branches of UNION ALL apart: a key of one could be a key of another",
        "begin each with a literal of its own: SELECT 'a' AS kind, {column}, … UNION ALL SELECT 'b' AS kind, …",
        f"SELECT id FROM {M} UNION ALL SELECT ¦id FROM {P}",
        "key_missing",
        {"column": "id"},
    ),
    "union_key": Refusal(
        "{column} is in the key of one branch, and here it may be null or has a type that cannot be in a key",
        "put columns that are keys in the same places of all branches",
        f"SELECT 'a' AS kind, movie_id, number FROM {C} UNION ALL SELECT 'b' AS kind, id, ¦small FROM {P}",
        "nullable_key",
        {"column": "number"},
    ),
    "union_key_type": Refusal(
        "{column} is {type} here and {other} in another branch, and what is recomputed is found by it",
        "make this branch a WITH query, and select from it in UNION ALL",
        f"SELECT 'a' AS kind, id FROM {M} UNION ALL SELECT 'b' AS kind, ¦year FROM {M} WHERE year > 0 GROUP BY year",
        "type_clash",
        {"column": "id", "type": "int32", "other": "int64"},
    ),
}
