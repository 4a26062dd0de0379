"""The shape of a refusal: what is said of something that Millstream SQL does not have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Refusal:
    """`example` is SQL with ¦ before the place; `values` are what it puts into the {} of message and cure."""

    message: str
    cure: str
    example: str
    code: str = "not_in_subset"
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def said(self) -> tuple[str, str]:
        """Message and cure of the example."""
        return self.message.format(**self.values), self.cure.format(**self.values)


M, P, C = "studio.public.movie", "hr.public.person", "studio.public.credit"
NOT = " is not part of Millstream SQL"
STEP = "make it a WITH query or a step of its own, and read that"
