"""schemathesis: requests made from the OpenAPI document, right ones and wrong ones; none may find a fault of the server's (RELIABILITY 29)."""

from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error

from tests.serve.server import Running, running


def explore(served: Running, examples: int) -> tuple[int, int]:
    """Ask every operation of the document up to ``examples`` times; how many were asked, and how many answered with 200."""
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    asked = fine = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @hypothesis.settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(case=operation.as_strategy() | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
        def ask(case: Any) -> None:
            nonlocal asked, fine
            asked += 1
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "tiny"
                if asked % 2:  # what is made seldom fits this small model
                    case.body = {k: v for k, v in case.body.items() if k not in ("max_completion_tokens", "logit_bias", "n")}
                    case.body |= {"max_tokens": 4} if "layer" not in case.body and "text" not in case.body else {}
            response = case.call(timeout=30)
            case.validate_response(response, checks=[not_a_server_error])
            fine += response.status_code == 200

        ask()
    served.require_nothing_held()
    return asked, fine


def test_the_document_lists_what_there_is(served: Running) -> None:
    paths = served.get("/openapi.json").json()["paths"]
    assert {"/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/underhood/attention", "/metrics", "/health"} <= set(paths)


def test_no_made_request_finds_a_fault() -> None:
    with running() as served:
        asked, fine = explore(served, 15)
        assert asked >= 60
        assert fine >= 8


@pytest.mark.slow
def test_a_thousand_made_requests_find_no_fault() -> None:
    with running() as served:
        asked, fine = explore(served, 350)
        assert asked >= 1000
        assert fine >= 60
