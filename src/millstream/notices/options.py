"""`notify:` in mesh.yaml: where owners are told that a part has paused or goes on."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from millstream.components import kept_from_others, sendable


class Options(BaseModel):
    """A webhook, e-mail, or both. Without either nobody is told but by `millstream status`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    webhook: SecretStr | None = Field(default=None, description="A URL that takes a POST of JSON, http:// or https://.")
    webhook_hosts: tuple[str, ...] = Field(default=(), description="The hosts that a webhook may be at; its own must be among them.")
    webhook_token: SecretStr | None = Field(
        default=None, description="Sent to the webhook as the bearer token; by https, or on this machine."
    )
    smtp: str | None = Field(default=None, description="`host:port` of a mail server.")
    smtp_tls: Literal["starttls", "tls", "none"] = Field(default="starttls", description="How the connection to it is kept from others.")
    smtp_user: str | None = Field(default=None, min_length=1, description="The user to log in as.")
    smtp_password: SecretStr | None = Field(default=None, description="That user's password.")
    mail_from: str | None = Field(default=None, description="The sender's address.")
    mail_to: tuple[str, ...] = Field(default=(), description="Addresses that are told of every part.")
    owners: dict[str, str] = Field(default_factory=dict, description="Owner → the address that is told of its parts, beside those.")
    timeout_s: float = Field(default=10.0, gt=0, le=300, description="Seconds to wait for either.")

    @field_validator("webhook", "webhook_token")
    @classmethod
    def _are_sendable(cls, value: SecretStr | None) -> SecretStr | None:
        return sendable(value)

    @field_validator("webhook_token")
    @classmethod
    def _is_kept(cls, value: SecretStr | None, known: ValidationInfo) -> SecretStr | None:
        if value is not None and known.data.get("webhook") is not None:
            kept_from_others(known.data["webhook"].get_secret_value())
        return value

    @model_validator(mode="after")
    def _fit(self) -> Options:
        if self.webhook is not None:
            parts = urlsplit(self.webhook.get_secret_value())
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
                raise ValueError("webhook is http:// or https://, a host, a port and a path, without a user")
            if parts.port == 0:  # beyond 65535 it is a ValueError already
                raise ValueError("a port is a number from 1 to 65535")
            if parts.hostname not in self.webhook_hosts:
                raise ValueError("the host of webhook is not in webhook_hosts: nothing is sent to a host that is not named there")
        elif self.webhook_token is not None:
            raise ValueError("webhook_token is for webhook, and there is none")
        if self.smtp is not None:
            host, colon, port = self.smtp.rpartition(":")
            if not (colon and host and port.isdecimal() and int(port) < 65536):
                raise ValueError("smtp is host:port, such as mail.example.com:587")
            if not self.mail_from or not (self.mail_to or self.owners):
                raise ValueError("mail needs mail_from, and mail_to or owners")
            if self.smtp_tls == "none" and self.smtp_password is not None:
                raise ValueError("a password is not sent over a connection that anyone can read: smtp_tls: starttls or tls")
        if (self.smtp_user is None) != (self.smtp_password is None):
            raise ValueError("smtp_user and smtp_password go together")
        if any(sign in address for address in self.addresses for sign in "\r\n,<>"):
            raise ValueError("an address is name@host, one to an entry")
        return self

    @property
    def addresses(self) -> tuple[str, ...]:
        return (*self.mail_to, *self.owners.values(), *([self.mail_from] if self.mail_from else []))
