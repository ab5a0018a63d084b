"""Fixtures of all files."""

import pytest

from support import Daemon, Hub


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.stop()


@pytest.fixture
def slow_hub():
    hub = Hub("--bytes-per-second", "3000000")
    yield hub
    hub.stop()


@pytest.fixture
def daemon(tmp_path, request):
    hub = request.getfixturevalue(getattr(request, "param", "hub"))
    daemon = Daemon(tmp_path, hub)
    yield daemon
    daemon.stop()
