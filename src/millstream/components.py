"""One row of a list of components: its name, the type of its options, and how it is opened.

Only this module imports by name, so that a driver loads when it is used and not when a list is read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr


@dataclass(frozen=True)
class Component:
    """`opener` is "package.module:callable"; what the callable takes is the contract of its room (sources, sinks). `lookup` is
    the opener of what a source offers beside its stream, where it does; `derives`: it knows tables that are derived from others."""

    name: str
    options: type[BaseModel]
    opener: str
    lookup: str | None = None
    derives: bool = False

    def open(self, *args: Any, **kwargs: Any) -> Any:
        return _made_by(self.opener)(*args, **kwargs)

    def open_lookup(self, *args: Any, **kwargs: Any) -> Any:
        """ValueError where it offers none."""
        if self.lookup is None:
            raise ValueError(f"{self.name} offers no lookups")
        return _made_by(self.lookup)(*args, **kwargs)


def _made_by(opener: str) -> Callable[..., Any]:
    module, _, attribute = opener.partition(":")
    make: Callable[..., Any] = getattr(import_module(module), attribute)
    return make


def sendable(secret: SecretStr | None) -> SecretStr | None:
    """A secret that stands in the head of an HTTP request as it is. ValueError where none can carry it: a library that finds so later
    writes it into its error, escaped, where nothing that blots secrets out knows it (invariant 10)."""
    if secret is not None and not all("!" <= sign <= "~" for sign in secret.get_secret_value()):
        raise ValueError("it has a sign that is no visible ASCII, such as a blank, an umlaut or the end of a line")
    return secret


def kept_from_others(url: str) -> None:
    """ValueError where a secret that is sent to this URL could be read on the way: plain http to another machine."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not on_this_machine(parts.hostname or ""):
        raise ValueError("a secret is not sent over a connection that anyone can read: write https://, or a host of this machine")


def on_this_machine(host: str) -> bool:
    """By a loopback address, or as localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find(components: tuple[Component, ...], name: str) -> Component | None:
    return next((c for c in components if c.name == name), None)
