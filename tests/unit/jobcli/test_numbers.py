"""Numbers that the protocol cannot carry are refused by name: their lower bits are other numbers."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from api.errors import ConfigError
from jobcli import job_file
from jobcli.commands.signal import number_of


@pytest.mark.parametrize("text", ["65", str(2**32 + 9), str(2**64 + 9), "9" * 5000], ids=lambda text: text[:30])
def test_no_signal_is_beyond_the_last(text: str) -> None:
    """2³² and 9 is not SIGKILL."""
    with pytest.raises(ConfigError, match=rf"there is no signal '{text}'; the last one is 64 \(SIGRTMAX\)"):
        number_of(text)


def test_every_other_number_is_that_of_a_signal() -> None:
    """With zeros before it, too; whether the system has it says the server."""
    assert [number_of(str(number)) for number in range(signal.SIGRTMAX + 1)] == [*range(65)]
    assert number_of("0" * 5000 + "9") == signal.SIGKILL


@pytest.mark.parametrize(
    ("key", "most"),
    [
        *((key, 2**31 - 1) for key in ("cpu-weight", "processes", "nice")),
        *((key, 2**63 - 1) for key in ("memory", "output", "open-files", "core")),
        ("timeout", 366 * 86400),
    ],
)
def test_a_job_file_s_limits_are_those_that_can_be_sent(tmp_path: Path, key: str, most: int) -> None:
    """The most is taken as it is, and one more is refused."""
    file = tmp_path / "jobs.toml"
    file.write_text(f'[a]\nargv = ["true"]\n{key} = {most}\n')
    assert job_file.read(file)[0].limits == {key.replace("-", "_"): most}
    file.write_text(f'[a]\nargv = ["true"]\n{key} = {most + 1}\n')
    with pytest.raises(ConfigError, match=rf"\[a\] has a {key} that cannot be: {most + 1}"):
        job_file.read(file)
