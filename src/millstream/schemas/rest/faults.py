"""What the REST API answers where it refuses: Confluent's numeric codes, each one of our errors with the number as its code.

The first three digits are the HTTP status. Reference: Confluent Schema Registry 8, API reference.
"""

from __future__ import annotations

from millstream.errors import Refused

CODES: dict[str, str] = {
    "400": "the request is not HTTP and JSON as this API has them",
    "40101": "this takes the registry's token, and the request has none or another",
    "403": "without a token only this machine's own names are answered: what comes by another one is a web page's doing, or a proxy's",
    "404": "there is no such path",
    "405": "the path does not take this method",
    "415": "the body's content type is none of JSON",
    "40401": "the subject is not there",
    "40402": "the version is not there",
    "40403": "the schema is not there",
    "40404": "the subject is deleted already; `permanent=true` deletes it for good",
    "40405": "the subject has to be deleted before it can be deleted for good",
    "40406": "the version is deleted already; `permanent=true` deletes it for good",
    "40407": "the version has to be deleted before it can be deleted for good",
    "40408": "the subject has no compatibility level of its own",
    "40409": "the subject has no mode of its own",
    "409": "the schema is not compatible with an earlier version, at the subject's level",
    "42201": "the schema, its type or a reference is not valid, or asks for what this registry does not keep",
    "42202": "that cannot be a version's number",
    "42203": "that is no compatibility level, or a setting that this registry does not have",
    "42204": "that is no mode",
    "42205": "not permitted: by the mode, because the id means something else, or because Millstream alone writes the subject",
    "42206": "another schema refers to it",
    "42208": "that cannot be a subject's name",
    "42209": "the request is too large",
    "50001": "the registry's database does not answer",
    "50002": "the request took too long",
}


def fault(code: str, message: str, cure: str = "") -> Refused:
    """A refusal with one of CODES."""
    assert code in CODES, code
    return Refused(message, code=code, cure=cure)


def status(code: str) -> int:
    """The HTTP status of a code."""
    return int(code[:3])


def no_subject(subject: str) -> Refused:
    return fault("40401", f"Subject '{subject}' not found.")


def no_version(version: object) -> Refused:
    return fault("40402", f"Version {version} not found.")


def no_schema(schema_id: object = None) -> Refused:
    return fault("40403", "Schema not found" if schema_id is None else f"Schema {schema_id} not found")


def not_permitted(why: str) -> Refused:
    return fault("42205", why)
