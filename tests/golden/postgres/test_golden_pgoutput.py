"""What real servers sent, read as it was when it was recorded, in one piece and split at every place."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_reader import messages_of, text, told

RECORDINGS = sorted(Path(__file__).parent.glob("*.bin"))


def test_there_are_recordings() -> None:
    assert {p.stem.partition("_")[2] for p in RECORDINGS} == {"operations", "types", "schema", "toast_truncate"}


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda p: p.stem)
def test_a_recording_is_read_the_same_in_any_two_pieces(recording: Path) -> None:
    messages = messages_of(recording)
    expected = recording.with_suffix(".json").read_text()
    for place in range(len(messages) + 1):
        assert text(told(messages, [place])) == expected, f"split at {place}"


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda p: p.stem)
def test_and_message_by_message(recording: Path) -> None:
    messages = messages_of(recording)
    assert text(told(messages, list(range(len(messages))))) == recording.with_suffix(".json").read_text()
