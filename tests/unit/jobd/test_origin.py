"""What turns out to be wrong after the settings were read is named by where it was said, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobd.origin import with_origin

TEXT = """# jobd
cert = "/etc/jobd/server.crt"

listen = "127.0.0.1:50051"
state = "/var/lib/jobd"
job-user = "jobs"
slots = 3
connections = 9
metrics = "[::1]:9464"
audit-log = "/var/log//jobd/"
user = "ci"

[limits]
memory = "1G"
[principals.alice]
users = ["carol"]
[principals.alice.limits.max]
memory = "2G"
cpus = 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "jobd.toml"
    written.write_text(TEXT)
    return written


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("cannot listen on 127.0.0.1:50051: Address already in use", "4: listen"),
        ("everybody can write in /etc/jobd, where the certificate /etc/jobd/server.crt is: chmod go-w it", "2: cert"),
        ("the state directory /var/lib/jobd cannot be used", "5: state"),
        ("--job-user: there is no user of that name", "6: job-user"),
        ("--job-users: it is another word", ""),
        ("3 is a number that stands in many sentences", ""),
        ("cannot listen on ::1:9464: Address already in use", "9: metrics"),
        ("/var/log/jobd cannot be used: it is a directory", "10: audit-log"),
        ("--user ci: jobd has to be started as root", "11: user"),
        ("--connections and --slots may take 1,000", "7: slots, {file}:8: connections"),
        ("[principals.alice]: there is no user 'carol'", "15: [principals.alice]"),
        (
            "the limits of cpus, memory in the configuration cannot be held here",
            "14: [limits]: memory, {file}:18: [principals.alice.limits.max]: memory, "
            "{file}:19: [principals.alice.limits.max]: cpus",
        ),
        ("[roles.writer]: it is said nowhere", ""),
        ("the machine is on fire", ""),
    ],
)
def test_the_line_of_the_file_is_told(file: Path, message: str, line: str) -> None:
    """Of what the message is about; else nothing is added."""
    where = line.replace("{file}", str(file))
    assert with_origin(message, {}, {}, file) == (f"{message} ({file}:{where})" if line else message)


def test_what_counts_is_told(file: Path) -> None:
    """A flag says itself where it is; a variable wins over the file; what has its line needs no other."""
    message = "cannot listen on 127.0.0.1:50051: Address already in use"
    assert with_origin(message, {"listen": "127.0.0.1:50051"}, {}, file) == message
    there = with_origin(message, {}, {"JOBD_LISTEN": "127.0.0.1:50051"}, file)
    assert there == f"{message} (JOBD_LISTEN)"
    assert with_origin(message, {}, {"JOBD_LISTEN": "127.0.0.1:50051"}, None) == there
    assert with_origin(f"{file}:4: {message}", {}, {}, file) == f"{file}:4: {message}"
    assert with_origin(message, {}, {}, file.parent / "none.toml") == message
