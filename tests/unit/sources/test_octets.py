"""Numbers read eight digits at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.sources.octets import PADDING, Octets

TEXTS = (
    st.integers(0, 10**19 - 1).map(str) | st.text("0123456789./:- ~\x7f", max_size=20) | st.sampled_from(["", "0" * 19, "9" * 19, "9" * 20])
)


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_digits_are_the_number_that_they_write(texts: list[str]) -> None:
    length = np.array([len(t) for t in texts])
    numbers, good = Octets("".join(texts).encode() + PADDING).digits(np.cumsum(length) - length, length)
    are = [0 < len(t) <= 19 and set(t) <= set("0123456789") for t in texts]
    assert good.tolist() == are
    for number, is_, text in zip(numbers.tolist(), are, texts, strict=True):
        assert not is_ or number == int(text)
