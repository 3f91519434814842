"""An engine that every test of a module may use and none may change."""

import pytest
from tiny_engine import write_tiny_engine


@pytest.fixture(scope="module")
def engine_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("engines") / "tiny"
    write_tiny_engine(directory)
    return directory
