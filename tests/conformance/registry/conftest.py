"""The registries that the suite is run against: ours, served in this process, and a real Apicurio."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient

from millstream.errors import Refused
from millstream.testing.apicurio_server import ApicurioServer

sys.path.insert(0, str(Path(__file__).parent))

from registry_served import our_registry

_numbers = itertools.count(1)


@pytest.fixture(scope="session", params=["millstream", pytest.param("apicurio", marks=[pytest.mark.long, pytest.mark.servers])])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base of the registry's API."""
    with ExitStack() as stack:
        if request.param == "millstream":
            yield stack.enter_context(our_registry(tmp_path_factory.mktemp("registry")))[0]
            return
        try:
            server = ApicurioServer()
        except Refused as error:
            pytest.skip(f"the registry is not compared with Apicurio: {error}")
        yield stack.enter_context(server)


@pytest.fixture
def subject() -> str:
    """A subject that nobody used before."""
    return f"movies-{next(_numbers)}-value"


Fresh = Callable[[], SchemaRegistryClient]


@pytest.fixture
def fresh(address: str) -> Iterator[Fresh]:
    """A client that has cached nothing yet."""
    with SchemaRegistryClient({"url": address, "max.retries": 0}) as made:

        def emptied() -> SchemaRegistryClient:
            made.clear_caches()
            return made

        yield emptied


@pytest.fixture
def client(fresh: Fresh) -> SchemaRegistryClient:
    return fresh()


@pytest.fixture
def http(address: str) -> Iterator[httpx2.Client]:
    """For what Confluent's client has no method for."""
    with httpx2.Client(base_url=address, headers={"Content-Type": "application/vnd.schemaregistry.v1+json"}) as opened:
        yield opened
