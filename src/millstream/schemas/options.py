"""What `registry:` in mesh.yaml may say. Light: nothing that serves or asks is loaded here."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from millstream.components import kept_from_others, on_this_machine, sendable

LISTEN = "127.0.0.1:8081"


class Options(BaseModel):
    """Without `url` the registry is Millstream's own; with it, the one there, and nothing is served here."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    listen: str | None = Field(
        default=None, description="`host:port` where `millstream run` serves the registry, such as 127.0.0.1:8081. Not given: it does not."
    )
    token: SecretStr | None = Field(
        default=None,
        description="With our own: what DELETE and changes of levels and modes take; needed to listen beyond this machine. "
        "With `url`: sent as the bearer token.",
    )
    url: str | None = Field(default=None, description="A registry with Confluent's REST API to use instead: https://host:port/path.")
    user: str | None = Field(default=None, min_length=1, description="With `url`: the user of basic authentication.")
    password: SecretStr | None = Field(default=None, description="With `url`: that user's password.")
    ca: str | None = Field(default=None, min_length=1, description="With `url`: a file of certificates to trust, instead of the system's.")
    timeout_s: float = Field(default=10.0, gt=0, le=300, description="With `url`: seconds to wait for an answer.")

    @field_validator("listen")
    @classmethod
    def _listens(cls, value: str | None) -> str | None:
        return None if value is None else checked_listen(value)

    @field_validator("token")
    @classmethod
    def _is_sendable(cls, value: SecretStr | None) -> SecretStr | None:
        return sendable(value)

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str | None, known: ValidationInfo) -> str | None:
        parts = urlsplit(value or "http://none")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("url is http:// or https://, a host, and at most a port and a path")
        if parts.port == 0:  # beyond 65535 it is a ValueError already
            raise ValueError("a port is a number from 1 to 65535")
        if parts.username is not None or parts.password is not None:
            raise ValueError("url has no user and password in it: they are options of their own")
        if value is not None and known.data.get("token") is not None:
            kept_from_others(value)
        return None if value is None else value.rstrip("/")

    @field_validator("password")
    @classmethod
    def _is_kept(cls, value: SecretStr | None, known: ValidationInfo) -> SecretStr | None:
        if value is not None and known.data.get("url") is not None:
            kept_from_others(known.data["url"])
        return value

    @model_validator(mode="after")
    def _fit(self) -> Options:
        if self.url and self.listen:
            raise ValueError("with url the registry is another's, which is not served from here: listen or url, not both")
        if not self.url and (self.user or self.password or self.ca):
            raise ValueError("user, password and ca are for the registry at url, and there is no url")
        if (self.user is None) != (self.password is None) or (self.user and self.token):
            raise ValueError("either user and password, or token")
        if self.listen and not self.token and not is_loopback(self.listen):
            raise ValueError("whoever reaches this address could delete subjects: give a token, or listen at 127.0.0.1")
        return self


def checked_listen(value: str) -> str:
    """host:port. ValueError where it is not."""
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("it listens at host:port, such as 127.0.0.1:8081")
    return value


def is_loopback(listen: str) -> bool:
    return on_this_machine(listen.rpartition(":")[0].strip("[]"))
