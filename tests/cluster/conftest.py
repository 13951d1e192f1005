"""A cluster of two machines whose workers tell what they begin, one for each file of tests."""

import pytest

from tests.cluster.disturbed import Told
from tests.cluster.nodes import Nodes


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Told:
    return Told(tmp_path_factory.mktemp("told"))


@pytest.fixture(scope="module")
def nodes(told):
    with Nodes(told.site) as nodes:
        nodes.add(), nodes.add()
        yield nodes
