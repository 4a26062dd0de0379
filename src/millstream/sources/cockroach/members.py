"""JSON texts side by side, read by columns: where the value of each member of each text lies.

Nothing here looks at every byte but for the quotes. A text whose members' names are known is walked for all rows at once: what stands
between two values is then a constant, a string ends at its second quote, and a number before the next name's first one.
Only where a value is an object or an array are the brackets looked for.
Reference: RFC 8259. The spacing is CockroachDB's: ", " between members, ": " after a name, none elsewhere.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from millstream.sources.octets import LOW8, PADDING, Index, Mask, Octets

QUOTE, BACKSLASH, COMMA, COLON, OPEN, CLOSE = b'"\\,:{}'
NULL = ord("n")
_BRACKET = 0x20  # the bit that [ and { differ in, and ] and }
_AFTER_SCALAR = re.compile(rb"[,}\]]")


class BadText(Exception):
    """What stands here is not such a text. `at`: an offset in the octets, where one is known."""

    def __init__(self, why: str, at: int | None = None) -> None:
        super().__init__(why)
        self.at = at


@dataclass(frozen=True)
class Values:
    """One JSON value a row: where its text begins, its length, and its first byte, which says what it is. 0: there is none."""

    at: Index
    length: Index
    first: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.at)

    def take(self, rows: Index) -> Values:
        """Row -1: none."""
        absent = rows < 0
        first = self.first[rows]
        first[absent] = 0
        return Values(np.where(absent, 0, self.at[rows]), np.where(absent, 0, self.length[rows]), first)

    @property
    def null(self) -> Mask:
        null: Mask = (self.first == NULL) | (self.first == 0)
        return null


@dataclass(frozen=True)
class Shape:
    """Members' names in the order in which a text has them: as spelled there, without quotes."""

    spelled: tuple[bytes, ...]
    names: tuple[str, ...] = field(compare=False)

    @classmethod
    def of(cls, spelled: tuple[bytes, ...]) -> Shape:
        """Raises BadText on a name that is no JSON string."""
        try:
            return cls(spelled, tuple(json.loads(b'"' + s + b'"') for s in spelled))
        except ValueError as error:
            raise BadText(f"a name is no string: {error}") from None

    @cached_property
    def literals(self) -> tuple[bytes, ...]:
        """What stands before each value."""
        return tuple((b", " if i else b"{") + b'"' + s + b'": ' for i, s in enumerate(self.spelled))


@dataclass(frozen=True)
class Walked:
    """Each member's value, then the place behind the object and the number of the next quote there. Where `fits` is false the rest says
    nothing."""

    values: list[Values]
    at: Index
    quote: Index
    fits: Mask


class Text:
    """JSON texts in a buffer, whole ones. Raises BadText where that is seen not to be so."""

    def __init__(self, octets: Octets) -> None:
        self.octets = octets
        self._raw = octets.u8[: octets.size]

    @cached_property
    def escapes(self) -> Index:
        """Where escapes begin: in a run of backslashes the first, third, fifth …"""
        if b"\\" not in self.octets.data:
            return np.empty(0, np.int64)
        return escapes_of(self._raw)

    @cached_property
    def quotes(self) -> Index:
        """Those that begin and end strings, in order: even ones begin, odd ones end."""
        found = self._raw == QUOTE
        if len(self.escapes):
            found[np.minimum(self.escapes + 1, len(found) - 1)] = False
        quotes = np.flatnonzero(found)
        if len(quotes) % 2:
            raise BadText("a string has no end")
        return quotes

    def outside(self, places: Index) -> Mask:
        """Of ascending places: those that are in no string."""
        found: Mask = np.searchsorted(self.quotes, places) % 2 == 0
        return found

    @cached_property
    def brackets(self) -> tuple[Index, Index, Index]:
        """Every bracket outside of strings in order: its place, that of its partner, and how many are open behind it."""
        low = self._raw | _BRACKET
        places = np.flatnonzero((low == OPEN) | (low == CLOSE))
        places = places[self.outside(places)]
        opens = low[places] == OPEN
        behind = np.cumsum(np.where(opens, 1, -1))
        # A bracket and its partner are neighbours among those of their depth.
        order = np.argsort(behind + ~opens, kind="stable")
        first, second = order[0::2], order[1::2]
        if len(order) % 2 or not opens[first].all() or opens[second].any():
            raise BadText("an object or an array has no end")
        partner = np.empty_like(places)
        partner[first], partner[second] = places[second], places[first]
        return places, partner, behind

    def ends_of(self, opened: Index) -> Index:
        """Behind the partner of the bracket at each place; somewhere where none stands."""
        places, partner, _ = self.brackets
        return partner.take(np.searchsorted(places, opened), mode="clip") + 1

    def within(self, at: Index) -> Index:
        """Places behind values of rows that did not fit may lie anywhere."""
        return np.minimum(np.maximum(at, 0), self.octets.size)

    def is_at(self, at: Index, literal: bytes) -> Mask:
        """Whether `literal`, in which is no NUL, stands at each place of the texts."""
        words = self.octets.little64
        if len(literal) < 8:
            short: Mask = (words[at] & LOW8[len(literal)]) == np.uint64(int.from_bytes(literal, "little"))
            return short
        found: Mask | None = None
        for k in [*range(0, len(literal) - 8, 8), len(literal) - 8]:
            # The padding behind the texts equals no literal.
            hit = words[np.minimum(at + k, len(words) - 1) if k else at] == np.uint64(int.from_bytes(literal[k : k + 8], "little"))
            found = hit if found is None else found & hit
        assert found is not None
        return found

    def value(self, at: Index, quote: Index, behind: int, ends: Index | None) -> tuple[Values, Index]:
        """The value at each place, and the number of the first quote behind it. `quote` is that of the first one at or behind the place.

        `behind` is how many bytes stand between a scalar and the quote that follows it. `ends`, given where in its text none follows:
        where a scalar ends.
        """
        first = self.octets.u8.take(at, mode="clip")
        following = self.quotes.take(quote, mode="clip") if len(self.quotes) else np.full(len(at), self.octets.size)
        end = following - behind
        if ends is not None:
            end = np.where((quote < len(self.quotes)) & (following < ends), end, ends)
        string = first == QUOTE
        if string.any():
            ended = self.quotes.take(quote + 1, mode="clip") + 1
            if string.all():
                end, quote = ended, quote + 2
            else:
                end, quote = np.where(string, ended, end), quote + 2 * string
        nested = (first | _BRACKET) == OPEN
        if nested.any():
            rows = np.flatnonzero(nested)
            end = end.copy()
            end[rows] = self.ends_of(at[rows])
            quote = quote.copy()
            quote[rows] = np.searchsorted(self.quotes, end[rows])
        return Values(at, end - at, first), quote

    def members(self, at: Index, quote: Index, shape: Shape, ends: Index | None) -> Walked:
        """Walks the object at each place by a shape. `ends`, where no quote follows it in its text: where it ends, its bracket aside."""
        values = []
        fits = np.ones(len(at), np.bool_)
        last = len(shape.literals) - 1
        for k, literal in enumerate(shape.literals):
            fits &= self.is_at(at, literal)
            # Behind the last value of an object that is not the text's last: }, "
            found, quote = self.value(at + len(literal), quote + 2, 3 if k == last else 2, ends if k == last else None)
            fits &= found.length > 0
            values.append(found)
            at = self.within(found.at + found.length)
        if not values:
            fits &= self.is_at(at, b"{")
            at = at + 1
        fits &= self.octets.u8[at] == CLOSE
        return Walked(values, at + 1, quote, fits)

    def spelled(self, at: int) -> list[tuple[bytes, int]]:
        """The members' names of one object as they are spelled, and where each one's value begins. Raises BadText."""
        data, quotes = self.octets.data, self.quotes
        found: list[tuple[bytes, int]] = []
        if data[at : at + 2] == b"{}":
            return found
        q = int(np.searchsorted(quotes, at))
        while True:
            if data[at : at + 1] not in (b"{", b",") or q + 1 >= len(quotes):
                raise BadText("no member stands where one should", at)
            begin, end = int(quotes[q]), int(quotes[q + 1])
            if data[at:begin] != (b", " if found else b"{") or data[end + 1 : end + 3] != b": ":
                raise BadText("a member is written with other spaces than CockroachDB's", at)
            at = end + 3
            found.append((data[begin + 1 : end], at))
            at = self._end(at, q + 2)
            if data[at : at + 1] == b"}":
                return found
            q = int(np.searchsorted(quotes, at))

    def _end(self, at: int, quote: int) -> int:
        first = self.octets.data[at]
        if first == QUOTE:
            return int(self.quotes[quote + 1]) + 1
        if first | _BRACKET == OPEN:
            return int(self.ends_of(np.array([at]))[0])
        behind = _AFTER_SCALAR.search(self.octets.data, at)
        if behind is None:
            raise BadText("a value has no end", at)
        return behind.start()


def escapes_of(raw: npt.NDArray[np.uint8]) -> Index:
    slashes = np.flatnonzero(raw == BACKSLASH)
    begins_run = np.ones(len(slashes), np.bool_)
    begins_run[1:] = np.diff(slashes) != 1
    place = np.arange(len(slashes))
    in_run = place - np.maximum.accumulate(np.where(begins_run, place, 0))
    escapes: Index = slashes[in_run % 2 == 0]
    return escapes


def elements(text: Text, arrays: Values) -> tuple[Text, Values, Index]:
    """The elements of JSON arrays, all rows' one after the other, and how many each row has. All rows have an array."""
    raw, begins = text.octets.packed(arrays.at, arrays.length)
    inner = Text(Octets(raw.tobytes() + PADDING))
    places, _, behind = inner.brackets
    commas = np.flatnonzero(raw == COMMA)
    commas = commas[inner.outside(commas)]
    commas = commas[behind[np.searchsorted(places, commas) - 1] == 1]
    return inner, *_between(raw, commas, begins, arrays.length > 2)


def _between(raw: npt.NDArray[np.uint8], commas: Index, begins: Index, full: Mask) -> tuple[Values, Index]:
    first = np.sort(np.concatenate([begins[:-1][full] + 1, commas + 2]))
    end = np.sort(np.concatenate([commas, begins[1:][full] - 1]))
    count = np.searchsorted(commas, begins[1:]) - np.searchsorted(commas, begins[:-1]) + full
    return Values(first, end - first, raw[first]), count
