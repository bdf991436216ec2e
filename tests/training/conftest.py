import gc
import warnings

import pytest


@pytest.fixture
def abandoned_reads():
    """Lets Orbax abandon the reads that were under way beside one that failed: Python complains about them later."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
