"""A feed's messages by columns: where each one's images, its columns' values and its times lie.

All messages of a feed have one envelope; images have as many shapes as the schema had columns lately. Both are read off a
message that nothing known fits, and kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from millstream.sources.cockroach.members import OPEN, BadText, Shape, Text, Values, Walked
from millstream.sources.octets import Index, Mask

SHAPES_MAX = 32  # of one topic that are kept


@dataclass(frozen=True)
class Part:
    """The images of one shape: `rows`, ascending, are those that have one; `values` goes with `shape.names`."""

    rows: Index
    shape: Shape
    values: list[Values]


@dataclass(frozen=True)
class Image:
    """One image of each message, before or after: its text, first byte n where it is null; and what is in it."""

    texts: Values
    parts: list[Part]

    @property
    def absent(self) -> Mask:
        return self.texts.null

    def shape_numbers(self) -> Index:
        """For each row the number of its part, -1 for none."""
        numbers = np.full(len(self.texts), -1, np.int64)
        for i, part in enumerate(self.parts):
            numbers[part.rows] = i
        return numbers


@dataclass(frozen=True)
class Laid:
    """One row a message. Without `diff` all before images are absent; a time that the feed does not tell is None."""

    after: Image
    before: Image
    diff: bool
    updated: Values | None
    mvcc: Values | None


class Layout:
    """One feed's."""

    def __init__(self) -> None:
        self._envelope: Shape | None = None
        self._shapes: dict[str, list[Shape]] = {}

    def lay(self, topic: str, text: Text, starts: Index, ends: Index) -> Laid:
        """Messages of one topic, at least one. Raises BadText on what is no message of an envelope with `after`."""
        if self._envelope is None:
            self._envelope = Shape.of(tuple(name for name, _ in text.spelled(int(starts[0]))))
            if "after" not in self._envelope.names:
                raise BadText("a message has no member `after`: the feed's envelope is not wrapped", int(starts[0]))
        at, quote = starts, np.searchsorted(text.quotes, starts)
        fits = np.ones(len(starts), np.bool_)
        images: dict[str, Image] = {}
        others: dict[str, Values] = {}
        last = len(self._envelope.names) - 1
        for k, (name, literal) in enumerate(zip(self._envelope.names, self._envelope.literals, strict=True)):
            fits &= text.is_at(at, literal)
            if not fits.all():
                # What stands here would be read as names that it has not.
                raise BadText("a message has another envelope than the feed's first", int(starts[np.flatnonzero(~fits)[0]]))
            at = at + len(literal)
            if name in ("after", "before"):
                images[name], at, quote = self._image(topic, text, at, quote + 2, ends - 2 if k == last else None)
            else:
                found, quote = text.value(at, quote + 2, 2, ends - 1 if k == last else None)
                others[name] = found
                at = text.within(found.at + found.length)
        fits = (text.octets.u8[at] == ord("}")) & (at == ends - 1)
        if not fits.all():
            raise BadText("a message does not end where it should", int(starts[np.flatnonzero(~fits)[0]]))
        none = np.zeros(len(starts), np.int64)
        before = images.get("before") or Image(Values(none, none, none.astype(np.uint8)), [])
        return Laid(images["after"], before, "before" in images, others.get("updated"), others.get("mvcc_timestamp"))

    def _image(self, topic: str, text: Text, at: Index, quote: Index, ends: Index | None) -> tuple[Image, Index, Index]:
        """The image at each place, the place behind it, and the number of the next quote there."""
        first = text.octets.u8[at]
        behind, quote = at + 4, quote.copy()  # behind null
        rows = np.flatnonzero(first == OPEN)
        if len(rows) < len(at) and not text.is_at(at[first != OPEN], b"null").all():
            raise BadText("an image is neither an object nor null", int(at[first != OPEN][0]))
        parts: list[Part] = []
        shapes = self._shapes.setdefault(topic, [])
        tried = 0
        while len(rows):
            learnt = tried == len(shapes)
            if learnt:
                shapes.append(Shape.of(tuple(name for name, _ in text.spelled(int(at[rows[0]])))))
            walked = text.members(at[rows], quote[rows], shapes[tried], None if ends is None else ends[rows])
            if learnt and not walked.fits[0]:
                raise BadText("an object is not written as CockroachDB writes it", int(at[rows[0]]))
            if walked.fits.any():
                parts.append(_part(rows, shapes[tried], walked))
                mine = rows[walked.fits]
                behind[mine], quote[mine] = walked.at[walked.fits], walked.quote[walked.fits]
                rows = rows[~walked.fits]
            tried += 1
        if parts:
            self._latest_first(shapes, parts)
        return Image(Values(at, behind - at, first), parts), behind, quote

    @staticmethod
    def _latest_first(shapes: list[Shape], parts: list[Part]) -> None:
        newest = max(parts, key=lambda p: p.rows[-1]).shape
        if shapes[0] != newest:
            shapes.remove(newest)
            shapes.insert(0, newest)
        del shapes[SHAPES_MAX:]


def _part(rows: Index, shape: Shape, walked: Walked) -> Part:
    if walked.fits.all():
        return Part(rows, shape, walked.values)
    good = np.flatnonzero(walked.fits)
    return Part(rows[good], shape, [v.take(good) for v in walked.values])
