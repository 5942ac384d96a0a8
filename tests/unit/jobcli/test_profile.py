"""What turns out to be wrong after the settings were read is told with the place where it was said."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.errors import ConfigError, CredentialsError, JobdError, UnavailableError
from jobcli import profile

TEXT = """# of mine
server = "localhost"
cert = "alice.crt"
key = "~/alice.key"

ca = "/srv/ca.crt"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "profile.toml"
    written.write_text(TEXT)
    return written


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("'localhost' is not an address"), "2: server"),
        (CredentialsError("cannot read the certificate {here}/alice.crt: No such file or directory"), "3: cert"),
        (CredentialsError("cannot read the private key {home}/alice.key: No such file or directory"), "4: key"),
        (CredentialsError("the CA file /srv/ca.crt holds no PEM certificate"), "6: ca"),
        (ConfigError("run takes no command after --"), ""),
        (UnavailableError("localhost is away"), ""),
    ],
)
def test_the_line_of_the_profile_is_told(file: Path, error: JobdError, line: str) -> None:
    """Of what is wrong on this side; what a server says is left as it is."""
    message = str(error).format(here=file.parent, home=Path.home())
    chosen = profile.load({"profile": str(file)}, {})
    assert chosen.told(type(error)(message)) == (f"{message} ({file}:{line})" if line else message)


def test_what_counts_is_told(file: Path) -> None:
    """A flag says itself where it is; a variable wins over the profile."""
    error = ConfigError("'elsewhere' is not an address")
    assert profile.load({"profile": str(file), "server": "elsewhere"}, {}).told(error) == str(error)
    named = profile.load({"profile": str(file)}, {"JOBCLI_SERVER": "elsewhere"}).told(error)
    assert named == f"{error} (JOBCLI_SERVER)"


@pytest.mark.parametrize(("variable", "meant"), [("JOBCLI_SERVR", "SERVER"), ("JOBCLI_CRET", "CERT")])
def test_a_variable_that_is_nearly_a_setting_s_is_refused(file: Path, variable: str, meant: str) -> None:
    """It would do nothing."""
    with pytest.raises(ConfigError, match=f"^{variable}: there is no such setting; did you mean JOBCLI_{meant}\\?$"):
        profile.load({"profile": str(file)}, {variable: "x"})


def test_other_variables_are_nobody_s_business(file: Path) -> None:
    """And one that is empty says nothing."""
    environment = {"JOBCLI_SOMETHING": "x", "JOBCLI_SERVR": "", "JOB_SERVER": "x"}
    assert profile.load({"profile": str(file)}, environment).server == "localhost"
