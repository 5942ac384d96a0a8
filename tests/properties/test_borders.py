"""What comes in at every border, whatever it is: an answer, or the error that the border knows; nothing else, and
nothing strange made of it. The corpus is in the examples: what was once found, and what stands near an edge.

Frames, messages, certificates and lists have tests of their own beside this one.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from api import trace
from api.address import parse_address
from api.errors import ConfigError
from jobcli import detach, job_file, profile
from jobd.audit.verify import verify
from jobd.backup.archive import STORE, ArchiveWriter, BackupError, extract
from jobd.config import FIELDS, Config, key_of, load
from jobd.launcher import protocol
from jobd.output.record import END, ENTRY, Entry, unpack_all
from jobd.rules import QUOTAS
from jobd.storage import records
from jobd.worker.job import LIMITS, Job, JobSpec
from jobd.worker.lifecycle import State

CHECKED = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
JOB = Job("0123abcd-0000-4000-8000-000000000000", JobSpec(("true",), env={"A": "b"}), State.PENDING, 1, "alice")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for what is tried."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@st.composite
def bent(draw: st.DrawFn, good: bytes) -> bytes:
    """Something good, or what is left of it after some changes, or nothing that ever was good."""
    data = bytearray(good)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["change", "cut", "double", "put"])):
            case "change":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del data[at : at + draw(st.integers(1, 600))]
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 600))]
            case "put":
                data[at:at] = draw(st.binary(max_size=8))
    return bytes(data)


# ---- files that people write

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1", "-1", "1e400", "4G", "unlimited", "hard-fail", "\0", "nan", "inf", "", "9" * 5000])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        *(key_of(name) for name in FIELDS),
        *LIMITS,
        *QUOTAS,
        *job_file.KEYS,
        *("limits", "max", "quota", "roles", "principals", "writer", "reader", "users", "groups"),
        *("server", "nonsense", "max_output"),
    ]
)
INNER = st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=3), max_size=3)
TABLES = st.dictionaries(KEYS, VALUES | INNER, max_size=5)


def toml(value: Any) -> str:
    """A value as TOML, on one line."""
    match value:
        case None:
            return "2026-11-29"
        case bool() | int() | str():
            return json.dumps(value)
        case float():
            return repr(value)
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{json.dumps(key)} = {toml(each)}' for key, each in value.items())}}}"
    raise AssertionError(value)


def as_toml(table: dict[str, Any]) -> bytes:
    return "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in table.items()).encode(errors="replace")


NEEDED = {"cert": "a", "key": "b", "ca": "c", "state": "d"}


def read_as_everything(path: Path) -> None:
    """As the configuration, as a file of jobs, and as a profile."""
    for read in (
        lambda: load(NEEDED, {}, path),
        lambda: job_file.read(path),
        lambda: profile.load({"profile": str(path)}, {}),
    ):
        try:
            assert isinstance(read(), Config | list | profile.Profile)
        except ConfigError as exc:
            said = str(exc)
        else:
            continue
        assert str(path) in said or "missing" in said
        assert "\n" not in said


@CHECKED
@given(table=TABLES)
@example(table={"slots": int("9" * 400)})
@example(table={"grace": float("nan")})
@example(table={"limits": {"max": {"max": {}}}})
@example(table={"roles": {"writer": {"limits": []}}})
def test_a_file_of_settings_is_read_or_refused_by_its_name(place: Path, table: dict[str, Any]) -> None:
    """Whatever stands where a number, a text or a table should be."""
    (place / "file.toml").write_bytes(as_toml(table))
    read_as_everything(place / "file.toml")


@CHECKED
@given(data=st.binary(max_size=200) | bent(as_toml({"listen": "localhost:1", "limits": {"max": {"memory": "4G"}}})))
@example(data=b"a = " + b"[" * 5000)
@example(data=b"a = " + b"9" * 5000)
@example(data=b"\xff")
@example(data=b"a = 1\na = 2")
def test_a_file_that_is_no_toml_is_refused_by_its_name(place: Path, data: bytes) -> None:
    """Bytes of any kind."""
    (place / "file.toml").write_bytes(data)
    read_as_everything(place / "file.toml")


# ---- texts that people write


@CHECKED
@given(text=st.text(max_size=40) | st.from_regex(r"\[?[0-9a-z:.]{0,12}\]?:?-?[0-9]{0,7}"))
@example(text="[::1]:٣")
@example(text="[::1")
@example(text="localhost:65536")
def test_an_address_is_one_or_is_refused(text: str) -> None:
    """One that is taken has a port that there is."""
    try:
        host, port = parse_address(text)
    except ConfigError:
        return
    assert host
    assert 0 <= port <= 65535


@CHECKED
@given(text=st.text(max_size=20) | st.from_regex(r"(ctrl-.|.)(,(ctrl-.|.)){0,3}"))
def test_keys_to_detach_with_are_some_or_are_refused(text: str) -> None:
    """Each is one byte, or several for a letter of another script."""
    try:
        keys = detach.parse(text)
    except ConfigError:
        return
    assert isinstance(keys, bytes)


# ---- what other programs say


@CHECKED
@given(
    parent=st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,8})?\n?"),
    state=st.text(max_size=80) | st.from_regex(r"([a-z0-9@]{1,8}=[!-~]{1,8},?){0,4}"),
)
@example(parent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n", state="")
@example(parent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", state="a=b\nX: y")
def test_a_trace_that_is_passed_on_is_one(parent: str, state: str) -> None:
    """It can stand in a header and in an environment, and whoever gets it takes it for the same."""
    found = trace.parse(parent, state)
    if found is None:
        return
    assert trace.parse(found.parent, found.state) == found
    text = found.parent + found.state
    assert text.isascii()
    assert text.isprintable()
    assert len(found.parent) == 55


@CHECKED
@given(packet=st.binary(max_size=100) | bent(protocol.pack({"op": "signal", "id": "x", "signal": 15, "main": False})))
@example(packet=b"[]")
@example(packet=b"\xff")
@example(packet=b'"x"')
def test_a_packet_of_the_launcher_is_a_message_or_no_json(packet: bytes) -> None:
    """What it is not, costs whoever reads it this packet."""
    try:
        assert isinstance(protocol.unpack(packet), dict)
    except (ValueError, AssertionError):
        return


# ---- what the disk gives back


@CHECKED
@given(data=bent(records.dump(JOB).encode()))
@example(data=b"null")
@example(data=b'{"spec":null}')
@example(data=b'{"spec":{"argv":5},"state":"pending"}')
def test_a_record_is_a_job_or_is_damaged(data: bytes) -> None:
    """By its text alone; its sum, which is looked at first, is another matter."""
    try:
        assert isinstance(records.load(data.decode(errors="replace")), Job)
    except ValueError:
        return


@CHECKED
@given(position=st.integers(0, 6), value=st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5))
def test_a_row_with_another_value_is_damaged(position: int, value: int | str | None) -> None:
    """Its sum says so."""
    row = records.row_of(JOB)
    changed = [value if at == position else each for at, each in enumerate(row)]
    if list(map(str, changed)) == list(map(str, row)) or (value in (None, "") and row[position] in (None, "")):
        return
    with pytest.raises(ValueError, match="damaged"):
        records.from_row(changed)


@CHECKED
@given(data=bent(b"".join(Entry(kind, at * 10, at, sum=at).pack() for at, kind in enumerate((1, 2, 3, END)))))
def test_an_index_gives_whole_entries_up_to_the_first_that_is_none(data: bytes) -> None:
    """Each is one that was written."""
    entries = unpack_all(data)
    assert b"".join(replace(entry).pack() for entry in entries) == data[: len(entries) * ENTRY.size]


def _archive() -> bytes:
    stream = io.BytesIO()
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"SQLite format 3\0" * 10)
        file.flush()
        with ArchiveWriter(stream, 10**9) as writer:
            writer.add(STORE, Path(file.name))
            writer.finish()
    return stream.getvalue().rstrip(b"\0") + bytes(1024)


ARCHIVE = _archive()


@CHECKED
@given(data=bent(ARCHIVE))
@example(data=b"")
@example(data=bytes(10240))
def test_a_backup_is_whole_or_is_none(place: Path, data: bytes) -> None:
    """And nothing is made but what a backup has."""
    with tempfile.TemporaryDirectory(dir=place) as name:
        try:
            extract(io.BytesIO(data), Path(name))
        except BackupError:
            pass
        else:
            assert (Path(name) / STORE).read_bytes() == b"SQLite format 3\0" * 10
        assert {path.name for path in Path(name).rglob("*")} <= {STORE}
    assert list(place.iterdir()) == []


AUDIT_LINE = b'{"seq":1,"time":"2026-11-29T00:00:00Z","event":"opened","prev":"' + b"0" * 64 + b'"}\n'


@CHECKED
@given(data=st.binary(max_size=300) | bent(AUDIT_LINE))
@example(data=b'{"seq":1}\n')
@example(data=b"[]\n")
@example(data=b"[" * 5000)
def test_an_audit_log_is_judged(place: Path, data: bytes) -> None:
    """Whatever stands in it."""
    (place / "audit").write_bytes(data)
    assert verify([place / "audit"]).lines >= 0
