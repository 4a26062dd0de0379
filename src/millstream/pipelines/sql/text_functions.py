"""The functions of texts. Positions count characters (code points) from 1."""

from __future__ import annotations

from collections.abc import Sequence

from millstream.events.types import Type
from millstream.pipelines.sql import flink
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.shape import Argument, Call, Function
from millstream.pipelines.sql.signatures import constant, count, gives, quoted, text

_EMPTY = flink.text("")
_CASES = "letters whose other case is several letters, or one by language: ß, ŉ, İ"
_PATTERNS = "character classes beyond ASCII, and what only one of RE2 and Java's regular expressions has"


def _length(call: Call) -> str:
    function = "CHAR_LENGTH" if call.types[0].kind == "text" else "CARDINALITY"
    return f"CAST({function}({call.texts[0]}) AS BIGINT)"


def _part_duckdb(call: Call) -> str:
    value, start, *rest = call.texts
    size = "".join(f", CASE WHEN {n} < 0 THEN 0 ELSE {n} END" for n in rest)
    return f"substring({value}, {start}{size})"


def _part_flink(call: Call) -> str:
    value, start, *rest = call.texts
    if call.constants[1]:
        return f"SUBSTRING({value}, {start}{''.join(f', GREATEST({n}, 0)' for n in rest)})"
    begin = f"(CASE WHEN {start} < 0 THEN CHAR_LENGTH({value}) + {start} ELSE {start} - 1 END)"
    size = "".join(f", GREATEST(GREATEST({n}, 0) + LEAST({begin}, 0), 0)" for n in rest)
    return f"SUBSTRING({value}, GREATEST({begin}, 0) + 1{size})"


def _end(function: str) -> str:
    return f"{function}({{0}}, CASE WHEN {{1}} < 0 THEN GREATEST(CHAR_LENGTH({{0}}) + {{1}}, 0) ELSE {{1}} END)"


def _padded(template: str) -> str:
    """Flink's own count a character beyond 16 bits as two, and cut it."""
    filling = "LEFT(REPEAT({2}, {1}), {1} - CHAR_LENGTH({0}))"
    long = template.replace("{filling}", filling)
    return f"(CASE WHEN CHAR_LENGTH({{0}}) < {{1}} THEN {long} ELSE LEFT({{0}}, GREATEST({{1}}, 0)) END)"


def _split(call: Call) -> str:
    value, separator, _ = call.texts
    found = f"SPLIT_INDEX({value}, {separator}, {(call.constants[2] or 0) - 1})"
    return f"(CASE WHEN {value} IS NOT NULL THEN COALESCE({found}, {_EMPTY}) END)"


def _concat(call: Call) -> str:
    return f"CONCAT({', '.join(f'COALESCE({x}, {_EMPTY})' for x in call.texts)})"


def _json(types: Sequence[Type], constants: Sequence[int | None]) -> Type | None:
    return t.TEXT


def _json_flink(call: Call) -> str:
    path = (call.words[1] or "").replace("'", "''")
    return f"JSON_VALUE({call.texts[0]}, '{path}')"  # Flink wants the path as a plain literal


FUNCTIONS: tuple[Function, ...] = (
    Function(
        "upper", (text(),), gives(t.TEXT), "upper({0})", "In capitals.", (("upper('aé')", "'AÉ'"),), flink="UPPER({0})", differs=_CASES
    ),
    Function(
        "lower", (text(),), gives(t.TEXT), "lower({0})", "In small letters.", (("lower('AÉ')", "'aé'"),), flink="LOWER({0})", differs=_CASES
    ),
    Function(
        "length",
        (Argument("value", frozenset({"text", "list"})),),
        gives(t.INT64),
        "length({0})",
        "Number of characters (code points) of a text, of values of a list.",
        (("length('a😀é')", "3"), ("length('')", "0"), ("length([1, NULL])", "2")),
        flink=_length,
    ),
    Function(
        "octet_length",
        (Argument("bytes", frozenset({"bytes"})),),
        gives(t.INT64),
        "octet_length({0})",
        "Number of bytes.",
        (),
        flink="CAST(CHAR_LENGTH(DECODE({0}, 'ISO-8859-1')) AS BIGINT)",
    ),
    Function(
        "trim",
        (text(),),
        gives(t.TEXT),
        "trim({0})",
        "Without spaces at either end.",
        (("trim('  a ')", "'a'"),),
        flink="TRIM(BOTH ' ' FROM {0})",
    ),
    Function(
        "ltrim", (text(),), gives(t.TEXT), "ltrim({0})", "Without spaces at its beginning.", (("ltrim(' a ')", "'a '"),), flink="LTRIM({0})"
    ),
    Function(
        "rtrim", (text(),), gives(t.TEXT), "rtrim({0})", "Without spaces at its end.", (("rtrim(' a ')", "' a'"),), flink="RTRIM({0})"
    ),
    Function(
        "substring",
        (text(), count("start"), count("count")),
        gives(t.TEXT),
        _part_duckdb,
        "From character `start` on, counted from 1, or from the end where it is below 0; `count` characters or the rest.",
        (("substring('stream', 3, 2)", "'re'"), ("substring('stream', -2)", "'am'"), ("substring('stream', 0, 2)", "'s'")),
        optional=1,
        flink=_part_flink,
    ),
    Function(
        "left",
        (text(), count("count")),
        gives(t.TEXT),
        "left({all})",
        "The first characters; below 0 all but the last ones.",
        (("left('stream', 2)", "'st'"), ("left('stream', -2)", "'stre'")),
        flink=_end("LEFT"),
    ),
    Function(
        "right",
        (text(), count("count")),
        gives(t.TEXT),
        "right({all})",
        "The last characters; below 0 all but the first ones.",
        (("right('stream', 2)", "'am'"), ("right('stream', -2)", "'ream'")),
        flink=_end("RIGHT"),
    ),
    Function(
        "replace",
        (text(), text("from"), text("to")),
        gives(t.TEXT),
        "replace({all})",
        "Every `from` becomes `to`; an empty `from` is nowhere.",
        (("replace('aba', 'a', 'c')", "'cbc'"), ("replace('aba', '', 'c')", "'aba'")),
        # Flink's own puts `to` between all characters where `from` is empty.
        flink="(CASE WHEN {1} = '' AND {2} IS NOT NULL THEN {0} ELSE REPLACE({0}, {1}, {2}) END)",
    ),
    Function(
        "split_part",
        (text(), quoted("separator"), constant("number")),
        gives(t.TEXT),
        "split_part({all})",
        "The part of that number, counted from 1; empty where there is none.",
        (("split_part('a,b', ',', 2)", "'b'"), ("split_part('a,b', ',', 3)", "''"), ("split_part('a||b', '||', 2)", "'b'")),
        flink=_split,
    ),
    Function(
        "strpos",
        (text(), text("part")),
        gives(t.INT64),
        "strpos({all})",
        "Where `part` begins, from 1; 0 where it is not.",
        (("strpos('stream', 're')", "3"), ("strpos('stream', 'x')", "0"), ("strpos('é😀x', 'x')", "3")),
        flink="CAST(POSITION({1} IN {0}) AS BIGINT)",
    ),
    Function(
        "starts_with",
        (text(), text("part")),
        gives(t.BOOLEAN),
        "starts_with({all})",
        "Whether the text begins so.",
        (("starts_with('stream', 'st')", "TRUE"), ("starts_with('stream', '')", "TRUE")),
        flink="STARTSWITH({all})",
    ),
    Function(
        "ends_with",
        (text(), text("part")),
        gives(t.BOOLEAN),
        "ends_with({all})",
        "Whether the text ends so.",
        (("ends_with('stream', 'st')", "FALSE"),),
        flink="ENDSWITH({all})",
    ),
    Function(
        "contains",
        (text(), text("part")),
        gives(t.BOOLEAN),
        "contains({all})",
        "Whether `part` is in the text.",
        (("contains('stream', 're')", "TRUE"),),
        flink="(POSITION({1} IN {0}) > 0)",
    ),
    Function(
        "concat",
        (text(),),
        gives(t.TEXT),
        "concat({all})",
        "All texts in a row; a null is as if empty.",
        (("concat('a', 'b', 'c')", "'abc'"), ("concat('a', CAST(NULL AS TEXT))", "'a'")),
        nulls="never",
        variadic=True,
        flink=_concat,
    ),
    Function(
        "concat_ws",
        (quoted("separator"), text()),
        gives(t.TEXT),
        "concat_ws({all})",
        "All texts that are not null, with the separator between them.",
        (("concat_ws('-', 'a', CAST(NULL AS TEXT), 'b')", "'a-b'"),),
        nulls="never",
        variadic=True,
        flink="CONCAT_WS({all})",
    ),
    Function(
        "lpad",
        (text(), count("length"), quoted("with")),
        gives(t.TEXT),
        "lpad({0}, CASE WHEN {1} < 0 THEN 0 ELSE {1} END, {2})",
        "Filled up at its beginning to that length, or cut to it.",
        (("lpad('7', 3, '0')", "'007'"), ("lpad('abc', 2, 'x')", "'ab'"), ("lpad('a', -1, 'x')", "''")),
        flink=_padded("{filling} || {0}"),
    ),
    Function(
        "rpad",
        (text(), count("length"), quoted("with")),
        gives(t.TEXT),
        "rpad({0}, CASE WHEN {1} < 0 THEN 0 ELSE {1} END, {2})",
        "Filled up at its end to that length, or cut to it.",
        (("rpad('a', 4, 'xy')", "'axyx'"),),
        flink=_padded("{0} || {filling}"),
    ),
    Function(
        "repeat",
        (text(), count("count")),
        gives(t.TEXT),
        "repeat({all})",
        "So many times in a row.",
        (("repeat('ab', 2)", "'abab'"),),
        flink="REPEAT({all})",
    ),
    Function(
        "reverse",
        (text(),),
        gives(t.TEXT),
        "reverse({0})",
        "From its end.",
        (("reverse('abé')", "'éba'"),),
        flink="REVERSE({0})",
        differs="characters that are made of several code points",
    ),
    Function(
        "regexp_matches",
        (text(), Argument("pattern", frozenset({"text"}), form="pattern")),
        gives(t.BOOLEAN),
        "regexp_matches({all})",
        "Whether the regular expression is found in the text.",
        (("regexp_matches('a12', '[0-9]+$')", "TRUE"), ("regexp_matches('a12', '^[0-9]')", "FALSE")),
        flink="REGEXP({all})",
        differs=_PATTERNS,
    ),
    Function(
        "regexp_extract",
        (text(), Argument("pattern", frozenset({"text"}), form="pattern"), constant("group", 9)),
        gives(t.TEXT),
        "regexp_extract({all})",
        "What the group of that number matched first (0: the whole), empty where nothing did.",
        (("regexp_extract('a12b', '([a-z])([0-9]+)', 2)", "'12'"), ("regexp_extract('a', '([0-9])', 1)", "''")),
        flink=f"(CASE WHEN {{0}} IS NOT NULL THEN COALESCE(REGEXP_EXTRACT({{all}}), {_EMPTY}) END)",
        differs=_PATTERNS,
    ),
    Function(
        "regexp_replace",
        (text(), Argument("pattern", frozenset({"text"}), form="pattern"), text("to")),
        gives(t.TEXT),
        "regexp_replace({0}, {1}, replace({2}, '\\', '\\\\'), 'g')",
        "Every match becomes `to`, taken as it is.",
        (("regexp_replace('a1b22', '[0-9]+', '#')", "'a#b#'"), ("regexp_replace('a1', '([a-z])', '$1\\1')", "'$1\\11'")),
        flink="REGEXP_REPLACE({all})",
        differs=_PATTERNS,
    ),
    Function(
        "md5",
        (text(),),
        gives(t.TEXT),
        "md5({0})",
        "The MD5 of the text's UTF-8, in hex.",
        (("md5('a')", "'0cc175b9c0f1b6a831c399e269772661'"),),
        flink="CAST(MD5({0}) AS STRING)",
    ),
    Function(
        "sha256",
        (text(),),
        gives(t.TEXT),
        "sha256({0})",
        "The SHA-256 of the text's UTF-8, in hex.",
        (("sha256('a')", "'ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb'"),),
        flink="CAST(SHA256({0}) AS STRING)",
    ),
    Function(
        "hex", (text(),), gives(t.TEXT), "hex({0})", "The text's UTF-8 in capital hex.", (("hex('aé')", "'61C3A9'"),), flink="HEX({0})"
    ),
    Function(
        "json_value",
        (Argument("json", frozenset({"json"})), Argument("path", frozenset({"text"}), form="path")),
        _json,
        "(CASE WHEN json_type({all}) NOT IN ('OBJECT', 'ARRAY') THEN json_extract_string({all}) END)",
        "The text of a text, number or boolean inside JSON: '$.a.b[0]'; null where there is none.",
        (),
        nulls="own",
        flink=_json_flink,
        differs="numbers written with an exponent or with zeros at their end",
    ),
)
