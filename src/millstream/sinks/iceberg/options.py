"""What a definition may say of an Iceberg table."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str = Field(pattern=r"^[^.\s]+(\.[^.\s]+)+$", description="namespace.table; both are made if they are not there.")
    mode: Literal["changelog"] = Field(default="changelog", description="changelog: every event is a row.")
    catalog: dict[str, str] | None = Field(
        default=None,
        repr=False,
        description="pyiceberg's catalog properties (type, uri, warehouse, …). Without it: a catalog in the mesh's data folder.",
    )
