"""What a definition may say of a JSON lines file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(min_length=1, description="The file to append to, one event a line; relative paths lie under the project.")
