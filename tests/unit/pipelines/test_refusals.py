"""Every refusal of SQL once: with its line and column in the file, its code and its cure. ¦ marks the place in the SQL."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import millstream.pipelines.compile as compile_module
from millstream.pipelines.compile import compile_all
from millstream.pipelines.diagnostics import Diagnostic, InvalidProject
from millstream.pipelines.plan import Input
from millstream.pipelines.project import load
from millstream.pipelines.sql.refusals import REFUSALS

from .conftest import SINKS, SOURCES

M, P, C = "studio.public.movie", "hr.public.person", "studio.public.credit"

# (code, what the cure says, SQL)
REFUSED = [
    # names
    ("unknown_column", "did you mean title?", f"SELECT id, ¦titel FROM {M}"),
    ("unknown_column", "did you mean title?", f"SELECT id\nFROM {M}\nWHERE year > 1 AND ¦titel = 'x'"),
    ("unknown_column", "did you mean id?", f'SELECT ¦"ID", name FROM {P}'),
    ("ambiguous_column", "say which: m.id", f"SELECT ¦id FROM {M} m JOIN {P} p ON p.id = m.director_id"),
    ("unknown_table", "did you mean studio.public.movie?", "SELECT id FROM ¦studio.public.movies"),
    ("unknown_table", "add the table to the source's tables", "SELECT id FROM ¦studio.zzz"),
    ("unknown_table", "did you mean studio.public.movie?", "SELECT id FROM ¦movie"),
    ("unknown_table", "known tables: m", f"SELECT m.id, ¦x.title FROM {M} m"),
    ("unknown_table", "known tables: m", f"SELECT ¦x.* FROM {M} m"),
    ("unknown_table", "alias", f"SELECT ¦studio.public.movie.id FROM {M}"),
    ("alias_twice", "give one an alias", f"SELECT movie.id FROM {M} JOIN ¦{M} ON movie.id = movie.id"),
    ("reserved_name", "another alias", f"SELECT id FROM ¦{M} __ms_x"),
    ("names_differ_in_case", "rename one", "SELECT 1 AS x FROM ¦studio.public.odd"),
    ("type_too_wide", "38 digits", "SELECT id FROM ¦studio.public.wide"),
    ("no_name", "AS name", f"SELECT id, ¦upper(title) FROM {M}"),
    ("bad_name", "letters, digits", f'SELECT id, title AS ¦"a b" FROM {M}'),
    ("column_twice", "with AS", f"SELECT id, title, ¦year AS title FROM {M}"),
    ("column_twice", "with AS", f"SELECT m.id, ¦p.id FROM {M} m JOIN {P} p ON p.id = m.director_id"),
    # types
    ("type_clash", "TRY_CAST", f"SELECT id FROM {M} WHERE ¦title = 5"),
    ("type_clash", "TRY_CAST", f"SELECT id FROM {M} WHERE ¦year > '2000'"),
    ("type_clash", "CAST", f"SELECT id, ¦title + 1 AS x FROM {M}"),
    ("type_clash", "AS TEXT", f"SELECT id, ¦title || year AS x FROM {M}"),
    ("type_clash", "2024-01-31", f"SELECT id FROM {M} WHERE ¦made > 'yesterday'"),
    ("type_clash", "2024-01-31", f"SELECT id, CAST(¦'31.1.2024' AS DATE) AS d FROM {M}"),
    ("type_clash", "one type", f"SELECT id, CASE WHEN ¦year > 1 THEN title ELSE 0 END AS x FROM {M}"),
    ("type_clash", "one type", f"SELECT id, ¦coalesce(title, year) AS x FROM {M}"),
    ("type_clash", "TRY_CAST", f"SELECT id FROM {M} WHERE year IN (1, ¦'a')"),
    ("type_clash", "x IS NOT NULL", f"SELECT id FROM {M} WHERE ¦title"),
    ("type_clash", "x IS NOT NULL", f"SELECT id FROM {M} WHERE year > 1 AND ¦year"),
    ("type_clash", "number", f"SELECT id, -¦title AS x FROM {M}"),
    ("type_clash", "upper(text)", f"SELECT id, upper(¦year) AS x FROM {M}"),
    ("type_clash", "substring(text, start [, count])", f"SELECT id, ¦substring(title) AS x FROM {M}"),
    ("type_clash", "year, quarter", f"SELECT id, date_trunc(¦'decade', made) AS x FROM {M}"),
    ("type_clash", "write the number out", f"SELECT id, round(price, ¦year) AS x FROM {M}"),
    ("type_clash", "can become: date", "SELECT at, value, CAST(¦at AS INTEGER) AS x FROM hr.public.reading"),
    ("type_clash", "DECIMAL(38,10)", f"SELECT id FROM {P} WHERE ¦badge > 5"),
    ("type_clash", "AS TEXT", f"SELECT id FROM {P} WHERE ¦extra = '1'"),
    ("bad_type", "it has BOOLEAN", f"SELECT id, CAST(¦year AS HUGEINT) AS x FROM {M}"),
    ("bad_type", "precision is 1 to 38", f"SELECT id, CAST(¦year AS DECIMAL(40,2)) AS x FROM {M}"),
    ("number_too_large", "DECIMAL(38,0)", f"SELECT id FROM {M} WHERE year = ¦12345678901234567890"),
    ("null_literal", "IS NULL", f"SELECT id FROM {M} WHERE ¦title = NULL"),
    ("null_literal", "CAST(NULL AS TEXT)", f"SELECT id, NULL AS ¦x FROM {M}"),
    ("null_literal", "leave it out", f"SELECT id, ¦upper(NULL) AS x FROM {M}"),
    # functions
    ("unknown_function", "did you mean upper?", f"SELECT id, ¦uper(title) AS x FROM {M}"),
    ("volatile", "column of the data", f"SELECT id FROM {M} WHERE ¦made < current_date"),
    ("volatile", "column of the data", f"SELECT id, ¦random() AS x FROM {M}"),
    # joins
    ("join_without_equality", "column of a WITH query first", f"SELECT m.id FROM {M} m JOIN {P} p ON ¦p.id = m.director_id + 1"),
    ("join_without_equality", "join by a column", f"SELECT m.id FROM {M} m JOIN {P} p ON ¦p.id = 1"),
    ("many_rows_per_key", "put m first", f"SELECT p.id, m.title FROM {P} p LEFT JOIN ¦{M} m ON m.director_id = p.id"),
    ("type_clash", "CAST p.small to int64", f"SELECT p.id FROM {P} p JOIN {M} m ON ¦m.id = p.small"),
    # keys
    ("key_missing", "add id to the SELECT list", f"SELECT ¦title FROM {M}"),
    ("key_missing", "as it is: id is computed", f"SELECT ¦id + 1 AS id FROM {M}"),
    ("key_missing", "add m.id to the SELECT list", f"SELECT ¦p.id, m.title FROM {M} m JOIN {P} p ON p.id = m.director_id"),
    ("key_missing", "add number", f"SELECT ¦movie_id FROM {C}"),
    ("key_type", "decimal", "SELECT at, ¦value FROM hr.public.reading"),
    # text
    ("sql_unreadable", "mend the SQL", f"SELECT id FROM {M} WHERE ¦)"),
    ("sql_unreadable", "mend the SQL", f"¦SELECT 'x FROM {M}"),
    ("sql_too_long", "split it", f"¦SELECT id FROM {M} -- " + "x" * 100_000),
]  # fmt: skip


def compile_step(step: str, write: Callable[[Mapping[str, str]], Path], known: Mapping[str, Input]) -> list[Diagnostic]:
    """The mistakes of a pipeline of one step, whose YAML lines are given."""
    text = "pipeline: p\nowner: team\nsteps:\n" + step + "sinks:\n  - {from: s, jsonl: {file: x}}\n"
    root = write({"pipelines/p.yaml": text})
    with pytest.raises(InvalidProject) as refused:
        compile_all(load(root, {}, SOURCES, SINKS), known)
    return list(refused.value.diagnostics)


@pytest.mark.parametrize(("code", "cure", "sql"), REFUSED, ids=[f"{c}-{i}" for i, (c, _, _) in enumerate(REFUSED)])
def test_sql_is_refused_with_its_place_and_cure(code, cure, sql, project, known) -> None:
    before, _, _ = sql.partition("¦")
    line, column = 6 + before.count("\n"), 7 + len(before) - (before.rfind("\n") + 1)
    lines = "".join(f"      {text}\n" for text in sql.replace("¦", "").split("\n"))
    found = compile_step(f"  - name: s\n    sql: |\n{lines}", project, known)
    assert [(d.file, d.line, d.column, d.code) for d in found] == [("pipelines/p.yaml", line, column, code)], found
    assert cure in found[0].cure
    assert found[0].path == "pipelines.p.steps[0].sql"


@pytest.mark.parametrize("name", REFUSALS)
def test_every_refusal_of_the_table_says_place_reason_and_cure(name, project, known) -> None:
    refusal = REFUSALS[name]
    before, mark, after = refusal.example.partition("¦")
    assert mark, "the example says no place"
    (found,) = compile_step(f"  - name: s\n    sql: |\n      {before}{after}\n", project, known)
    message, cure = refusal.said
    assert (found.file, found.line, found.column) == ("pipelines/p.yaml", 6, 7 + len(before))
    assert (found.code, found.message, found.cure) == (refusal.code, message, cure)


def test_every_refusal_in_the_code_is_in_the_table() -> None:
    """And the other way round: a row that nothing uses would fail above."""
    used = set[str]()
    for file in Path(compile_module.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "refuse":
                used |= {n.value for n in ast.walk(call.args[1]) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert len(used) > 50
    assert used - set(REFUSALS) - {"name", "all", "rank"} == set()


@pytest.mark.parametrize(
    ("head", "tail", "line", "column"),
    [
        ("sql: SELECT id, ", "", 5, 21),
        ("sql: 'SELECT id, ", "'", 5, 22),
        ('sql: "SELECT id, ', '"', 5, 22),
        ("sql: >\n      SELECT id,\n      ", "", 7, 7),
        ("sql: |-  # SELECT id, titel\n        SELECT\n          id,\n\n          ", "", 9, 11),
        ("sql:\n      SELECT id,\n        ", "", 7, 9),
        ("sql: 'SELECT ''a'' AS a, id,\n      ", "'", 6, 7),
    ],
)
def test_the_place_is_found_in_every_way_of_writing_text(head, tail, line, column, project, known) -> None:
    found = compile_step(f"  - name: s\n    {head}titel FROM {M}{tail}\n", project, known)
    assert [(d.line, d.column, d.code) for d in found] == [(line, column, "unknown_column")]


@pytest.mark.parametrize(
    ("key", "sql", "path", "code", "cure"),
    [
        ("[titel]", f"SELECT id, title FROM {M}", "key[0]", "unknown_column", "did you mean title?"),
        ("[title]", f"SELECT id, title FROM {M}", "key", "key_not_unique", "add id to key:"),
        ("[n]", f"SELECT movie_id AS m, number AS n FROM {C}", "key", "key_not_unique", "add m to key:"),
        ("[id, title]", f"SELECT id, title FROM {M}", "key[1]", "nullable_key", "WHERE title IS NOT NULL"),
        ("[id, rating]", f"SELECT id, rating FROM {M} WHERE rating > 1", "key[1]", "key_type", "use a decimal"),
        ("[id, extra]", f"SELECT id, extra FROM {P} WHERE extra IS NOT NULL", "key[1]", "key_type", "use a decimal"),
        ("[title]", f"SELECT title, count(*) AS n, year FROM {M} WHERE year > 1 AND title > '' GROUP BY title, year",
         "key", "key_not_unique", "add year to key:"),
    ],
)  # fmt: skip
def test_a_key_that_is_none_is_refused(key, sql, path, code, cure, project, known) -> None:
    (found,) = compile_step(f"  - name: s\n    sql: {sql}\n    key: {key}\n", project, known)
    assert (found.line, found.path, found.code) == (6, f"pipelines.p.steps[0].{path}", code)
    assert cure in found.cure


def test_all_mistakes_of_a_query_are_told_at_once(project, known) -> None:
    sql = f"SELECT id, nosuch, uper(title) AS u, title + 1 AS x FROM {M} WHERE zz = 1 ORDER BY 1 LIMIT 1"
    found = compile_step(f"  - name: s\n    sql: {sql}\n", project, known)
    assert sorted(d.code for d in found) == [
        "not_in_subset",
        "not_in_subset",
        "type_clash",
        "unknown_column",
        "unknown_column",
        "unknown_function",
    ]
    assert [(d.line, d.column) for d in found] == sorted((d.line, d.column) for d in found)
