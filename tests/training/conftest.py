import gc
import signal
import warnings

import pytest


@pytest.fixture(autouse=True)
def interruptible():
    """SIGINT interrupts, as at a terminal: a job that a script starts in the background is born ignoring it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def abandoned_reads():
    """Lets Orbax abandon the reads that were under way beside one that failed: Python complains about them later."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
