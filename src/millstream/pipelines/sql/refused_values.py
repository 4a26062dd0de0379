"""What is refused of groups, windows, subqueries and expressions, as data."""

from __future__ import annotations

from millstream.pipelines.sql.refusal import NOT, STEP, C, M, P, Refusal

_WINDOW = "the one window here is QUALIFY row_number() OVER (PARTITION BY … ORDER BY …) <= n; else GROUP BY in a WITH query and join it"
_COLUMN = "use a column of the data: a time must come from the event, or the same row would differ each time"

GROUPS = {
    "aggregate_without_group": Refusal(
        "{name}() without GROUP BY" + NOT + ": one row would be made of the whole table",
        "add GROUP BY; or nest it: (SELECT {name}(…) FROM … WHERE b.a_id = a.id)",
        f"SELECT id, ¦count(*) AS n FROM {M}",
        "aggregate",
        {"name": "count"},
    ),
    "aggregate_in_where": Refusal(
        "{name}() stands where rows are not grouped yet",
        "filter groups with HAVING",
        f"SELECT id FROM {M} WHERE ¦count(*) > 1 GROUP BY id",
        "aggregate",
        {"name": "count"},
    ),
    "nested_aggregate": Refusal(
        "{name}() inside an aggregate" + NOT,
        "take the inner one in a WITH query, and aggregate that",
        f"SELECT id, max(¦count(*)) AS n FROM {M} GROUP BY id",
        "aggregate",
        {"name": "count"},
    ),
    "unknown_aggregate": Refusal(
        "there is no aggregate {name}",
        "it has {known}",
        f"SELECT id, ¦median(year) AS n FROM {M} GROUP BY id",
        "unknown_function",
        {"name": "median", "known": "count, sum, avg, min, max, bool_and, bool_or, list, string_agg, first"},
    ),
    "having_without_group": Refusal("HAVING without GROUP BY" + NOT, "filter rows with WHERE", f"SELECT id FROM {M} HAVING ¦year > 1"),
    "grouping_sets": Refusal(
        "GROUPING SETS, ROLLUP and CUBE" + NOT,
        "make a branch of UNION ALL of each, with a literal that tells them apart",
        f"SELECT id FROM {M} GROUP BY ROLLUP (¦id)",
    ),
    "group_by_all": Refusal(
        "GROUP BY ALL" + NOT + ": another column would change the key",
        "name the columns",
        f"SELECT ¦id, count(*) AS n FROM {M} GROUP BY ALL",
    ),
    "group_by_subquery": Refusal("a subquery in GROUP BY" + NOT, STEP, f"SELECT id FROM {M} GROUP BY (SELECT ¦1)"),
    "group_by_constant": Refusal(
        "a constant makes one group of the whole table",
        "leave it out; it may stand in the SELECT list",
        f"SELECT id FROM {M} GROUP BY id, ¦'x'",
    ),
    "group_inside": Refusal(
        "GROUP BY in a subquery" + NOT,
        "leave it out: a subquery's rows are a group; else " + STEP,
        f"SELECT id FROM {M} m WHERE EXISTS (SELECT 1 FROM {C} c WHERE c.movie_id = m.id GROUP BY ¦role)",
    ),
    "not_grouped": Refusal(
        "{name} is neither grouped by nor aggregated",
        "add it to GROUP BY, or write min({name})",
        f"SELECT id, ¦title FROM {M} GROUP BY id",
        "not_grouped",
        {"name": "title"},
    ),
    "not_aggregated": Refusal(
        "{name} stands beside an aggregate",
        "write min({name}), or list({name} ORDER BY …)",
        f"SELECT id, (SELECT count(*) + ¦c.number FROM {C} c WHERE c.movie_id = m.id) AS n FROM {M} m",
        "not_grouped",
        {"name": "c.number"},
    ),
    "subquery_over_groups": Refusal(
        "a subquery beside GROUP BY" + NOT,
        "group in a WITH query, and write the subquery over that",
        f"SELECT id, EXISTS (SELECT ¦1 FROM {C} c WHERE c.movie_id = m.id) AS x FROM {M} m GROUP BY id",
    ),
    "star_over_groups": Refusal("* over groups" + NOT, "name the columns", f"SELECT ¦m.* FROM {M} m GROUP BY id"),
    "star_in_aggregate": Refusal(
        "* stands in count(*) alone", "name the column", f"SELECT id, sum(¦*) AS n FROM {M} GROUP BY id", "type_clash"
    ),
    "distinct_in_aggregate": Refusal(
        "{name}(DISTINCT …)" + NOT,
        "take what is distinct by GROUP BY in a WITH query, and aggregate that",
        f"SELECT id, ¦list(DISTINCT title ORDER BY title) AS n FROM {M} GROUP BY id",
        values={"name": "list"},
    ),
    "order_in_aggregate": Refusal(
        "{name} does not depend on an order",
        "leave ORDER BY out",
        f"SELECT id, count(title ORDER BY ¦title) AS n FROM {M} GROUP BY id",
        values={"name": "count"},
    ),
    "order_missing": Refusal(
        "{name} depends on the order of rows, and there is no ORDER BY",
        "add ORDER BY {columns}",
        f"SELECT year, ¦list(title) AS titles FROM {M} WHERE year > 0 GROUP BY year",
        "order_not_total",
        {"name": "list", "columns": "movie.id"},
    ),
    "order_not_total": Refusal(
        "{name} depends on the order of rows, and its ORDER BY leaves some open",
        "add {columns} to its ORDER BY",
        f"SELECT year, ¦list(title ORDER BY made) AS titles FROM {M} WHERE year > 0 GROUP BY year",
        "order_not_total",
        {"name": "list", "columns": "movie.id"},
    ),
    "float_sum": Refusal(
        "{name} of a {type}: floats add up to another value in another order",
        "CAST it AS DECIMAL(18,6)",
        f"SELECT year, sum(¦rating) AS r FROM {M} WHERE year > 0 GROUP BY year",
        "float_sum",
        {"name": "sum", "type": "float64"},
    ),
    "within_group": Refusal(
        "WITHIN GROUP" + NOT,
        "write string_agg(x, ',' ORDER BY …)",
        f"SELECT id, ¦list(title) WITHIN GROUP (ORDER BY title) AS n FROM {M} GROUP BY id",
    ),
    "ignore_nulls": Refusal(
        "IGNORE NULLS" + NOT, "write FILTER (WHERE x IS NOT NULL)", f"SELECT id, first(¦title IGNORE NULLS) AS n FROM {M} GROUP BY id"
    ),
    "filter_here": Refusal(
        "FILTER stands behind an aggregate", "write WHERE, or CASE WHEN", f"SELECT id, ¦upper(title) FILTER (WHERE year > 1) AS n FROM {M}"
    ),
}
WINDOWS = {
    "window": Refusal("a window function" + NOT, _WINDOW, f"SELECT id, ¦row_number() OVER (ORDER BY id) AS n FROM {M}"),
    "named_window": Refusal(
        "a named window or a frame" + NOT, "write OVER (PARTITION BY … ORDER BY …)", f"SELECT id FROM {M} WINDOW ¦w AS (ORDER BY id)"
    ),
    "qualify_form": Refusal(
        "QUALIFY of another form" + NOT,
        "write QUALIFY row_number() OVER (PARTITION BY … ORDER BY …) <= n",
        f"SELECT id FROM {M} QUALIFY ¦sum(id) OVER (PARTITION BY year ORDER BY id) <= 3",
    ),
    "rank": Refusal(
        "QUALIFY {name}()" + NOT + ": rows of equal rank would be let in without a limit",
        "write row_number() with an ORDER BY that ends in the key",
        f"SELECT id, year FROM {M} QUALIFY ¦rank() OVER (PARTITION BY year ORDER BY made) <= 3",
        values={"name": "rank"},
    ),
    "no_partition": Refusal(
        "a Top-N without PARTITION BY" + NOT + ": each change would concern all rows",
        "add PARTITION BY; for the first n of all, order and limit where it is read",
        f"SELECT id FROM {M} QUALIFY ¦row_number() OVER (ORDER BY id) <= 3",
    ),
    "qualify_over_groups": Refusal(
        "QUALIFY beside GROUP BY" + NOT,
        "group in a WITH query, and pick from that",
        f"SELECT id FROM {M} GROUP BY id QUALIFY ¦row_number() OVER (PARTITION BY id ORDER BY id) <= 3",
    ),
    "qualify_over_full_join": Refusal(
        "QUALIFY over a FULL JOIN" + NOT,
        "join in a WITH query, and pick from that",
        f"SELECT id, m.year FROM {M} m FULL JOIN {P} p USING (id) WHERE m.year > 0 "
        "QUALIFY ¦row_number() OVER (PARTITION BY m.year ORDER BY m.id, p.id) <= 3",
    ),
    "qualify_inside": Refusal(
        "QUALIFY in a subquery" + NOT,
        STEP,
        f"SELECT id FROM {M} m WHERE EXISTS (SELECT 1 FROM {C} c WHERE c.movie_id = m.id "
        "QUALIFY ¦row_number() OVER (PARTITION BY role ORDER BY number) = 1)",
    ),
}
SUBQUERIES = {
    "uncorrelated": Refusal(
        "a subquery that no equality ties to the query around it: one change in it would concern every row",
        "tie it: WHERE {column} = a column of the query around it (in IN: both sides plain columns)",
        f"SELECT id FROM {M} WHERE EXISTS (SELECT ¦1 FROM {P})",
        values={"column": "person.x"},
    ),
    "not_in": Refusal(
        "NOT IN (subquery)" + NOT + ": one null in it empties the result",
        "write NOT EXISTS (SELECT 1 FROM … WHERE …)",
        f"SELECT id FROM {M} WHERE ¦director_id NOT IN (SELECT id FROM {P})",
    ),
    "in_as_value": Refusal(
        "IN (subquery) that is not a condition of WHERE by itself, or joined by AND and OR" + NOT,
        "write EXISTS (SELECT 1 FROM … WHERE …)",
        f"SELECT id, ¦director_id IN (SELECT id FROM {P}) AS x FROM {M}",
    ),
    "in_several": Refusal(
        "IN (subquery) needs one column",
        "write EXISTS (SELECT 1 FROM … WHERE …)",
        f"SELECT id FROM {M} WHERE director_id IN (SELECT ¦id, name FROM {P})",
    ),
    "in_hidden": Refusal(
        "{table} means another table inside the subquery",
        "give one an alias of its own",
        f"SELECT m.id FROM {M} m WHERE ¦m.director_id IN (SELECT m.id FROM {P} m)",
        "alias_twice",
        {"table": "m"},
    ),
    "any_all": Refusal(
        "ANY and ALL" + NOT,
        "write EXISTS or NOT EXISTS (SELECT 1 FROM … WHERE …)",
        f"SELECT id FROM {M} WHERE year > ALL (SELECT ¦small FROM {P})",
    ),
    "scalar_subquery": Refusal(
        "a subquery that gives a row's value" + NOT,
        "LEFT JOIN the table on its key; or aggregate: (SELECT min(x) FROM …)",
        f"SELECT id, (SELECT ¦name FROM {P} p WHERE p.id = m.director_id) AS x FROM {M} m",
    ),
    "subquery_of_several": Refusal(
        "a nested aggregate needs one item",
        "make a record of them: {{a: count(*), b: max(x)}}",
        f"SELECT id, (SELECT ¦count(*), max(c.number) FROM {C} c WHERE c.movie_id = m.id) AS x FROM {M} m",
    ),
    "limit_inside": Refusal(
        "LIMIT in a nested list" + NOT,
        "write list_slice((SELECT list(… ORDER BY …) …), 1, 5)",
        f"SELECT id, (SELECT list(c.number ORDER BY c.number) FROM {C} c WHERE c.movie_id = m.id LIMIT ¦5) AS x FROM {M} m",
    ),
    "union_inside": Refusal(
        "UNION in a subquery" + NOT,
        STEP,
        f"SELECT id FROM {M} m WHERE EXISTS (SELECT ¦1 FROM {P} p WHERE p.id = m.id UNION ALL SELECT 1 FROM {P} q WHERE q.id = m.id)",
    ),
    "subquery_here": Refusal("a subquery here" + NOT, STEP, f"SELECT id, upper(SELECT ¦name FROM {P}) AS n FROM {M}"),
    "outer_column": Refusal(
        "{name} is of the query around a nested aggregate, and no equality ties it to a column of a table inside that is joined by then",
        "tie it: WHERE x = {name}; or use it outside the subquery",
        f"SELECT id, (SELECT count(*) FROM {C} c WHERE c.movie_id = m.id AND c.number > ¦m.year) AS n FROM {M} m",
        values={"name": "m.year"},
    ),
}
EXPRESSIONS = {
    "volatile": Refusal("{name} gives another value each time", _COLUMN, f"SELECT id, ¦now() AS x FROM {M}", "volatile", {"name": "now()"}),
    "too_deep": Refusal(
        "the SQL is nested too deeply",
        "split it into steps",
        f"¦SELECT {'(' * 3000}1{')' * 3000} AS x FROM {M}",
        "sql_too_deep",
    ),
    "interval": Refusal("INTERVAL" + NOT, "add whole days to a date: d + 7", f"SELECT id FROM {M} WHERE made > made - INTERVAL ¦'1' DAY"),
    "tuple": Refusal("a row of values" + NOT, "compare the columns one by one", f"SELECT id, (¦id, year) AS x FROM {M}"),
    "parameter": Refusal("a parameter" + NOT, "write the value", f"SELECT id FROM {M} WHERE ¦id = $x"),
    "json": Refusal("reading inside JSON" + NOT, "CAST(x AS TEXT) gives its text", f"SELECT id, ¦extra -> 'a' AS x FROM {P}"),
    "power": Refusal("^ and **" + NOT, "write power(x, y)", f"SELECT id, ¦year ^ 2 AS x FROM {M}"),
    "time_zone": Refusal(
        "AT TIME ZONE" + NOT,
        "timestamps with a zone are read in UTC: CAST(x AS TIMESTAMP)",
        f"SELECT id, ¦made AT TIME ZONE 'CET' AS x FROM {M}",
    ),
    "escape": Refusal(
        "LIKE … ESCAPE" + NOT, "use contains, starts_with or ends_with", f"SELECT id FROM {M} WHERE ¦title LIKE 'a!%' ESCAPE '!'"
    ),
    "star": Refusal("* inside an expression" + NOT, "name the columns", f"SELECT id, upper(¦*) AS x FROM {M}"),
    "star_except": Refusal("* EXCLUDE, REPLACE and RENAME" + NOT, "name the columns", f"SELECT ¦* EXCLUDE (title) FROM {M}"),
    "bracket": Refusal("[…] behind a value" + NOT, "write list_slice(list, 1, 5), or record.member", f"SELECT id, ¦title[1] AS x FROM {M}"),
    "lambda": Refusal(
        "a function as an argument" + NOT,
        "make the list of what you want: (SELECT list(f(x) ORDER BY …) FROM … WHERE …)",
        f"SELECT id, upper(¦x -> x) AS y FROM {M}",
    ),
    "record_without_names": Refusal("a record has names", "write {{name: x, other: y}}", f"SELECT id, {{¦title}} AS x FROM {M}"),
    "expression": Refusal(
        "{name}" + NOT,
        "see the table of operators and functions of Millstream SQL",
        f"SELECT id, ¦year & 1 AS x FROM {M}",
        values={"name": "BitwiseAnd"},
    ),
}
