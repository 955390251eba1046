"""One server for all tests that leave it as they found it."""

from collections.abc import Iterator

import pytest

from tests.serve.server import Running, running


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running() as server:
        yield server
        server.require_nothing_held()
