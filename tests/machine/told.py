"""A plugin for pytest: a failure is told when it happens. A machine that takes too long tells none at its end."""

import pytest

MOST = 6000
"""Characters of each: the end of it."""


class Told:
    """Made for a run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal:
            terminal.write_line(f"\n{report.longreprtext[-MOST:]}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Told(config))
