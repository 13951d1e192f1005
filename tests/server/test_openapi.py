"""Whatever the OpenAPI description allows is answered as it says, and what it does not allow is refused."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.server.started import started

load_all_checks()
OPERATIONS = [("/describe", "POST"), ("/texts.zip", "POST"), ("/status", "GET"), ("/options", "GET")]


@pytest.fixture(scope="module")
def schema(weights_folder, tmp_path_factory):
    with started(weights_folder.resolve(), tmp_path_factory.mktemp("server")) as server:
        yield schemathesis.openapi.from_url(f"{server.address}/openapi.json")


def test_every_operation_is_tried(schema):
    paths = schema.raw_schema["paths"]
    assert sorted((path, method.upper()) for path, own in paths.items() for method in own) == sorted(OPERATIONS)


@pytest.mark.parametrize("generation", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path, method", OPERATIONS)
def test_the_api_answers_as_it_is_described(schema, path, method, generation):
    @given(case=schema[path][method].as_strategy(generation_mode=generation))
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def answers(case):
        # of what its values are each right in, /describe refuses what together leaves no word bank
        case.call_and_validate(excluded_checks=[positive_data_acceptance] if path == "/describe" else [])

    answers()
