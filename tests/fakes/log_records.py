"""The log records that a test itself causes."""

from logging import LogRecord

import pytest


def own_records(caplog: pytest.LogCaptureFixture) -> list[LogRecord]:
    """Return the records without those of gRPC's poller.

    One poller serves all event loops of a process. It may find nothing to read, or have something for the closed loop of an
    earlier test, and the loop that runs then logs that.
    """
    return [record for record in caplog.records if "PollerCompletionQueue" not in record.getMessage()]
