"""schemathesis: requests made from the OpenAPI document, right ones and wrong ones; none may find a fault of the server's (RELIABILITY 29)."""

from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error

from tests.serve.server import Running, running


def explore(served: Running, examples: int) -> int:
    """Ask every operation of the document ``examples`` times; how many were answered with 200."""
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    fine = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @hypothesis.settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(case=operation.as_strategy() | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
        def ask(case: Any) -> None:
            nonlocal fine
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "tiny"
            response = case.call(timeout=30)
            case.validate_response(response, checks=[not_a_server_error])
            fine += response.status_code == 200

        ask()
    served.require_nothing_held()
    return fine


def test_the_document_lists_what_there_is(served: Running) -> None:
    paths = served.get("/openapi.json").json()["paths"]
    assert {"/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/underhood/attention", "/metrics", "/health"} <= set(paths)


def test_no_made_request_finds_a_fault() -> None:
    with running() as served:
        assert explore(served, 15) > 30


@pytest.mark.slow
def test_a_thousand_made_requests_find_no_fault() -> None:
    with running() as served:
        assert explore(served, 300) > 300
