"""For tests of applications that send ticks or read outcomes: a worker that makes no videos.

In the root `conftest.py`, with `vortex-slots[testing]` installed:

    pytest_plugins = ["vortex.testing"]

It gives the fixtures `vortex_kafka`, `vortex_topics` and `vortex_worker`, and the option
`--vortex-kafka HOST:PORT`. Without pytest's fixtures, use `FakeWorker` as a context manager.

Like `vortex.contract` it is a name for applications, and none of our own modules imports it: the
code is in `consumer.testing`. PYTEST_DONT_REWRITE: it may be imported before it is a plugin.
"""

from consumer.config import TopicsConfig as TopicsConfig
from consumer.results import DeadLetter as DeadLetter
from consumer.testing.fixtures import pytest_addoption as pytest_addoption
from consumer.testing.fixtures import vortex_kafka as vortex_kafka
from consumer.testing.fixtures import vortex_topics as vortex_topics
from consumer.testing.fixtures import vortex_worker as vortex_worker
from consumer.testing.worker import FakeWorker as FakeWorker
from consumer.testing.worker import FakeWorkerError as FakeWorkerError
from consumer.testing.worker import topics as topics
