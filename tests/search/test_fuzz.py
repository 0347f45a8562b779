"""Schemathesis: requests made from the API's own description, valid and broken ones, must never break the server."""

from __future__ import annotations

import io
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pipeline_lib.search.api import create_app
from pipeline_lib.search.engine import SearchEngine
from pipeline_lib.search.service import Settings

EXAMPLES = 12
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture  # Schemathesis ends the application, and with it its threads
def app(engine: SearchEngine) -> FastAPI:
    return create_app(engine, Settings(), version="v", hosts=("testserver",))


@pytest.fixture
def api(app: FastAPI) -> Any:
    buffer = io.BytesIO()
    Image.new("L", (32, 32), 255).save(buffer, "PNG")
    schemathesis.openapi.media_type("image/*", _pictures(buffer.getvalue()))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def _pictures(png: bytes) -> Any:
    from hypothesis import strategies as st

    # A real picture, one that is cut, and anything at all.
    return st.one_of(st.just(png), st.integers(1, len(png)).map(lambda n: png[:n]), st.binary(min_size=1, max_size=200))


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "broken"])
def test_no_request_breaks_the_server_and_answers_are_as_described(api: Any, mode: GenerationMode) -> None:
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) == 11
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters or operation.query):
            continue  # there is nothing to break

        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        check()
