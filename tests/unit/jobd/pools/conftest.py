"""A pool for each test."""

from __future__ import annotations

import pytest

from tests.support.pool_steps import Pool


@pytest.fixture
def pool() -> Pool:
    return Pool()
