"""What a definition may say of an embedded search index."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from millstream.queries.treatment import Treatment


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    index: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}(@[1-9][0-9]{0,8})?$",
        description="The index's name: letters, digits, - and _. `NAME@2` is generation 2 of it, in a folder of its own.",
    )
    fields: dict[str, Treatment] = Field(
        default_factory=dict,
        description="How columns are found (`cast.name` for a member): text (by words, and whole), exact (by the whole value), "
        "stored (not at all). "
        "Unnamed columns: text and json by words, bytes only stored, all others by value and range.",
    )
    heap_mb: int = Field(default=64, ge=15, le=4096, description="Memory for documents that are not committed yet.")
