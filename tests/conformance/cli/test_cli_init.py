"""A new project is sound as it stands, and nothing that was there is lost."""

from __future__ import annotations

import re

import pytest
import yaml

from millstream.events.types import Field, RowSchema, Type


def test_a_new_project_is_sound(shop) -> None:
    answer = shop("init", "studio", "--json")
    assert answer.code == 0
    assert set(answer.json["made"]) == {
        "mesh.yaml", "sources/example.yaml", "pipelines/example.yaml", "products/example.yaml", ".gitignore",
    }  # fmt: skip

    shop.folder = shop.folder / "studio"
    assert yaml.safe_load((shop.folder / "mesh.yaml").read_text()) == {"mesh": "studio"}
    assert shop("validate").code == 0
    assert shop("apply").code == 0


def test_the_examples_work_without_their_comment_signs(shop) -> None:
    """What a person does first: take the comment signs away. The text must then be a project that compiles."""
    shop("init", "studio")
    kinds = (("sources/example.yaml", "source:"), ("pipelines/example.yaml", "pipeline:"), ("products/example.yaml", "product:"))
    for name, first in kinds:
        text = (shop.folder / "studio" / name).read_text()
        shop.write(name, uncommented(text, first).replace("connector: postgres", "connector: scripted"))
    (shop.folder / "sources/shop.yaml").unlink()
    (shop.folder / "pipelines/large.yaml").unlink()
    shop.database.tables = {
        "public.orders": row("id", "amount", "placed_at", "customer_id"),
        "public.customers": row("id", "name"),
    }
    document = shop("validate", "--json").json
    steps = document.pop("steps")
    assert document == {"valid": True, "mistakes": [], "faults": [], "unchecked": {}, "local_only": []}
    assert steps["large_orders.large_orders"]["key"] == ["id"]
    assert "large_orders.large_orders: id int64, " in shop("validate").out
    topics = {s["subject"] for s in shop("plan", "--json").json["steps"] if s["kind"] == "create_topic"}
    assert topics == {"shop.public.orders", "shop.public.customers", "large_orders.large_orders", "customer@1.customer"}


def row(*names: str) -> RowSchema:
    return RowSchema(tuple(Field(name, Type("int64"), place) for place, name in enumerate(names, 1)), ("id",))


def uncommented(text: str, first: str) -> str:
    lines = [re.sub(r"^# ?", "", line) for line in text.splitlines() if line.startswith("#")]
    start = next(i for i, line in enumerate(lines) if line.startswith(first))
    block = []
    for line in lines[start:]:
        if not line.strip():
            break
        block.append(line)
    return "\n".join(block) + "\n"


def test_nothing_is_written_over(shop) -> None:
    shop("init", "studio")
    mine = shop.folder / "studio/sources/example.yaml"
    mine.write_text("# mine\n")
    (shop.folder / "studio/mesh.yaml").unlink()
    answer = shop("init", "studio", "--json").json
    assert answer["made"] == ["mesh.yaml"]
    assert mine.read_text() == "# mine\n"


@pytest.mark.parametrize("name", ["Studio", "9lives", "two words", "a-b"])
def test_a_name_that_cannot_name_a_mesh(shop, name) -> None:
    answer = shop("init", name)
    assert answer.code == 2
    assert not (shop.folder / name).exists()
