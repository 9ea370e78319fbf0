from collections.abc import Iterator

import pytest
from sites import Site, a_site


@pytest.fixture
def site() -> Iterator[Site]:
    with a_site() as here:
        yield here
