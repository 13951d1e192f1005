"""Whatever the OpenAPI description allows is answered as it says, and what it does not allow is refused."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.server.started import started

load_all_checks()
# An empty field of a form was not filled in, so it is its default; and values that are each right may leave no word
# bank. What is refused of a form is in test_app.py.
NOT_OF_FORMS = [negative_data_rejection, positive_data_acceptance]
OPERATIONS = [("/describe", "POST"), ("/texts.zip", "POST"), ("/status", "GET"), ("/options", "GET")]
WAYS = [(*own, GenerationMode.POSITIVE) for own in OPERATIONS]
WAYS += [(*own, GenerationMode.NEGATIVE) for own in OPERATIONS[:2]]  # the others take nothing that could be wrong


@pytest.fixture(scope="module")
def schema(weights_folder, tmp_path_factory):
    with started(weights_folder.resolve(), tmp_path_factory.mktemp("server")) as server:
        yield schemathesis.openapi.from_url(f"{server.address}/openapi.json")


def test_every_operation_is_tried(schema):
    paths = schema.raw_schema["paths"]
    assert sorted((path, method.upper()) for path, own in paths.items() for method in own) == sorted(OPERATIONS)


@pytest.mark.parametrize("path, method, generation", WAYS)
def test_the_api_answers_as_it_is_described(schema, path, method, generation):
    @given(case=schema[path][method].as_strategy(generation_mode=generation))
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def answers(case):
        case.call_and_validate(timeout=300, excluded_checks=NOT_OF_FORMS if path == "/describe" else [])

    answers()
