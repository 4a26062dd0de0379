"""One row of a list of components: its name, the type of its options, and how it is opened.

Only this module imports by name, so that a driver loads when it is used and not when a list is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class Component:
    """`opener` is "package.module:callable"; what the callable takes is the contract of its room (sources, sinks)."""

    name: str
    options: type[BaseModel]
    opener: str

    def open(self, *args: Any, **kwargs: Any) -> Any:
        module, _, attribute = self.opener.partition(":")
        make: Callable[..., Any] = getattr(import_module(module), attribute)
        return make(*args, **kwargs)


def find(components: tuple[Component, ...], name: str) -> Component | None:
    return next((c for c in components if c.name == name), None)
