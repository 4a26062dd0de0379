"""`millstream.read`, by the page that shows it: every block of it runs against a project that has run, beside an open mesh."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import millstream
from millstream.errors import Refused
from millstream.testing.scripted_source import Change

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "read-in-python.md"


def test_the_page_does_what_it_says(shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    capsys.readouterr()
    monkeypatch.chdir(shop.folder)
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, names)
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == ["2 ['id', 'amount', 'note']", "[(2, 400)]", "400"]
    events = [line.split()[:2] for line in said[3:]]  # how much of the load the log brings is the script's chance
    assert [offset for offset, _ in events] == [str(n) for n in range(len(events))]
    assert len(events) >= 3 and {op for _, op in events} <= {"c", "r"}


def test_rows_follow_changes_and_deletes_and_a_reader_ends_where_it_was_made(shop) -> None:
    shop("apply")
    shop("run", "--until-caught-up")
    before = millstream.read("large.large", shop.folder)
    row = {"id": 2, "amount": 150, "note": "green tea"}
    shop.database.commit(Change("public.orders", row, {**row, "amount": 160}), Change("public.orders", {**row, "id": 3}, None))
    shop.database.commit(Change("public.orders", None, {"id": 9, "amount": 900, "note": None}))
    shop("run", "--until-caught-up")
    assert [r["amount"] for r in before.to_arrow().to_pylist()] == [150, 250]
    now = millstream.read("large.large", shop.folder)
    assert now.to_arrow().to_pylist() == [{**row, "amount": 160}, {"id": 9, "amount": 900, "note": None}]
    assert now.to_arrow().to_pylist() == [r for batch in now for r in batch.to_pylist()]
    events = millstream.read("large.large", shop.folder, events=True).to_arrow()
    assert events.column("op").to_pylist()[-3:] == ["u", "d", "c"]
    assert events.schema.names[:4] == ["offset", "op", "before", "after"]


def test_refusals_say_what_to_do(shop, tmp_path: Path) -> None:
    def refused(topic: str, folder: Path) -> Refused:
        with pytest.raises(Refused) as caught:
            millstream.read(topic, folder)
        assert caught.value.cure
        return caught.value

    (tmp_path / "empty").mkdir()
    assert refused("x", tmp_path / "empty").code == "invalid_project"
    assert refused("x", shop.folder).code == "no_topics"
    assert not (shop.home / "topics.db").exists(), "nothing is made by asking"
    shop("apply")
    found = refused("large.larg", shop.folder)
    assert (found.code, "large.large" in found.cure) == ("topic_unknown", True)


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "import sys, millstream; print([m for m in ('pyarrow', 'numpy', 'duckdb', 'sqlalchemy', 'sqlglot') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout == "[]\n"
