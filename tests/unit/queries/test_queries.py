"""The language's own pieces: every form of the reference is read, words are cut the same everywhere, values keep their order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import Refused
from millstream.events.types import Type, list_of, record_of
from millstream.queries.check import checked
from millstream.queries.conditions import AllOf
from millstream.queries.fields import Fields
from millstream.queries.grammar import FORMS, KEYWORDS
from millstream.queries.highlight import marked, wanted
from millstream.queries.matching import matcher
from millstream.queries.values import clock, day, moment
from millstream.queries.words import spans, words

FILMS = Fields(
    {
        "title": Type("text"),
        "year": Type("int32"),
        "score": Type("decimal", 3, 1),
        "dest": Type("text"),
        "cast": list_of(record_of(("name", Type("text")), ("role", Type("text")))),
    }
)
ALIEN = {
    "title": "Alien: Resurrection",
    "year": 1997,
    "dest": "ATL",
    "cast": [{"name": "Ford", "role": "Han"}, {"name": "Weaver", "role": None}],
}


@pytest.mark.parametrize(("form", "meaning", "example"), FORMS)
def test_every_form_of_the_reference_can_be_written(form: str, meaning: str, example: str) -> None:
    holds = matcher(checked(example.strip("`"), FILMS))
    assert holds(ALIEN) in (True, False)
    assert meaning


def test_keywords_in_small_letters_are_words() -> None:
    fields = Fields({"title": Type("text")})
    condition = checked(" ".join(sorted(KEYWORDS)).lower(), fields)
    assert isinstance(condition, AllOf)
    assert matcher(condition)({"title": " ".join(sorted(KEYWORDS))})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Amélie's e\u0301t\u00e9", ["amelie", "s", "ete"]),
        ("Łódź ß STRASSE", ["lodz", "ss", "strasse"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("東京タワー 2020", ["東", "京", "タ", "ワ", "ー", "2020"]),
        ("İstanbul snake_case ﬁne", ["istanbul", "snake", "case", "fine"]),
        ("\u0301", []),
        ("x" * 150, ["x" * 100]),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


@given(st.text())
def test_words_have_no_space_and_know_their_place(text: str) -> None:
    for word, start, end in spans(text):
        assert word
        assert not any(c.isspace() for c in word)
        assert words(text[start:end]) == [word]
    assert [w for w, _, _ in spans(text)] == words(text)


def test_times() -> None:
    assert day("1970-01-02") == 1
    assert day("0000-12-31") == -719163
    assert day("12345-01-01") is not None
    assert day("2024-02-30") is None
    assert clock("23:59:59.5") == 86_399_500_000
    assert clock("24:00") is None
    assert moment("1970-01-01T01:00:00+01:00") == (0, True)
    assert moment("1970-01-02") == (86_400_000_000, False)
    assert moment("1970-01-02T25:00") is None


def test_names_of_members_are_offered() -> None:
    with pytest.raises(Refused) as caught:
        checked("cast.nam = x", FILMS)
    assert "cast.name" in caught.value.cure
    with pytest.raises(Refused) as caught:
        checked("ANY cast (nam = x)", FILMS)
    assert "one of: name" in caught.value.cure
    assert "an element of cast" in caught.value.message


@pytest.mark.parametrize(
    ("query", "marks"),
    [
        ("alien", {"title": [("Alien: Resurrection", [(0, 5)])]}),
        ('title: "alien resurrection" OR res*', {"title": [("Alien: Resurrection", [(0, 5), (7, 19)])]}),
        ("NOT alien", {}),
        ("year = 1997", {}),
        ("ANY cast (name: FORD)", {"cast.name": [("Ford", [(0, 4)])]}),
        ("weaver han", {"cast.name": [("Weaver", [(0, 6)])], "cast.role": [("Han", [(0, 3)])]}),
        ("alien OR nothing", {"title": [("Alien: Resurrection", [(0, 5)])]}),
    ],
)
def test_what_is_highlighted(query: str, marks: dict) -> None:
    assert marked(wanted(checked(query, FILMS)), ALIEN) == marks
