"""The house: which room may import which. Every arrow goes down; there is no circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import betterproto
import pytest

from api import well_known
from api.lean import BETTERPROTO, leave_out_what_is_not_called

ROOT = Path(__file__).parents[2]

FLOORS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "jobd.__main__",
            "jobd.cli",
            "jobd.dev",
            "jobd.server",
            "jobd.upgrade",
            "jobd.backup",
            "jobd.check",
            "jobcli",
            "pki",
        }
    ),
    frozenset({"jobd.trial", "jobd.origin"}),
    frozenset({"jobd.daemon"}),
    frozenset({"jobd.parts"}),
    frozenset({"jobd.metrics", "jobd.pooled"}),
    frozenset({"jobd.service", "jobd.pools", "jobd.storage", "jobd.unprivileged", "jobd.machine"}),
    frozenset({"jobd.transport", "jobd.trust", "jobd.middleware"})
    | frozenset({"jobd.broker", "jobd.output", "jobd.launcher", "jobd.limits", "jobd.audit"}),
    frozenset({"jobd.worker", "jobd.config", "jobd.needs", "jobd.rules", "jobd.quota", "jobd.logs"}),
    frozenset({"api"}),
)
"""From the roof down. A room may import rooms on lower floors, and itself; the top floor, its neighbours named here."""

NEIGHBOURS = {
    "jobd.config": {"jobd.needs", "jobd.rules", "jobd.quota", "jobd.worker"},
    "jobd.rules": {"jobd.quota", "jobd.worker"},  # for the names of limits
    "jobd.quota": {"jobd.worker"},  # for who asks
    "jobd.__main__": {"jobd.cli"},
    "jobd.cli": {"jobd.dev", "jobd.server", "jobd.upgrade", "jobd.backup", "jobd.check", "jobd.audit"},
    "jobd.check": {"jobd.server"},  # for its options
    "jobd.dev": {"jobd.server", "pki"},
}
NARROW = {
    "jobcli": ("api", "jobcli"),
    "pki": ("api.identity", "api.errors", "api.nearest", "pki"),
    "jobd.worker": ("api.errors", "jobd.worker"),
    "api": ("api",),
}
"""Rooms that may import only these of the project."""


def modules() -> list[Path]:
    return [
        path
        for package in ("api", "jobd", "jobcli", "pki")
        for path in sorted((ROOT / package).rglob("*.py"))
        if "_generated" not in path.parts and path.name != "generate.py"
    ]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they go"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def room_of(module: str) -> str | None:
    for room in (room for floor in FLOORS for room in floor):
        if module == room or module.startswith(room + "."):
            return room
    return None


def floor_of(room: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if room in floor)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down(path: Path) -> None:
    """No room imports a room above it, or another on its own floor."""
    module = name_of(path)
    room = room_of(module)
    if module in ("jobd", "pki", "jobcli"):
        return
    assert room, f"{module} stands on no floor; give it one"
    for imported in imports_of(path):
        target = room_of(imported)
        if target is None or target == room or target in NEIGHBOURS.get(room, set()):
            continue
        assert floor_of(target) > floor_of(room), f"{module} imports {imported}, which is not below it"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_rooms_with_few_friends_import_only_those(path: Path) -> None:
    """The client knows nothing of the daemon; the worker library nothing of networks; the pki only identities."""
    module = name_of(path)
    for room, allowed in NARROW.items():
        if module == room or module.startswith(room + "."):
            ours = {name for name in imports_of(path) if name.split(".")[0] in ("api", "jobd", "jobcli", "pki")}
            strangers = {name for name in ours if not name.startswith(allowed) and name != "api"}
            assert not strangers, f"{module} imports {sorted(strangers)}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_the_rpc_room_knows_purerpc_and_h2(path: Path) -> None:
    """What we lean on of a pinned library is in one place."""
    users = {name.split(".")[0] for name in imports_of(path)} & {"purerpc", "h2", "hpack", "hyperframe"}
    assert not users or path.relative_to(ROOT).parts[:2] == ("api", "rpc"), f"{name_of(path)} imports {users}"


def test_a_server_does_not_load_the_client() -> None:
    """How soon it serves after a kill is, for the most part, how long its modules take to load."""
    code = "import sys, jobd.server; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not {"api.client", "api.rpc.channel", "jobd.launcher.launcher"} & set(loaded.stdout.split())
    assert not {"jobd.metrics", "prometheus_client"} & set(loaded.stdout.split()), "only where metrics are wanted"
    assert not {"jobd.audit", "jobd.trial"} & set(loaded.stdout.split()), "only with an audit log, and for an upgrade"
    launcher = {f"jobd.launcher.{part}" for part in ("local", "allowed", "visitors")}
    assert not launcher & set(loaded.stdout.split()), "only without a launcher, with --user, and in the launcher"
    assert "jobd.trust.revocation" not in loaded.stdout.split(), "only with a revocation list"


def test_a_server_without_a_pool_loads_nothing_of_it() -> None:
    """Not after it has begun, either: with all that it serves."""
    code = """
import sys, jobd.server, jobd.daemon, jobd.parts, trio
from pathlib import Path
from jobd.config import Config

async def main():
    config = Config(cert=Path("c"), key=Path("k"), ca=Path("ca"), state=Path("s"))
    async with jobd.parts.service_of(config, None, None, [], None) as service:
        assert service.handlers

trio.run(main)
print(*sys.modules)
"""
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    rooms = ("jobd.pooled", "jobd.pools.etcd", "jobd.pools.remote", "jobd.service.pool")
    assert not [each for each in loaded.stdout.split() if each.startswith(rooms)]
    assert "jobd.service.job_worker" in loaded.stdout.split()


LEAN = "import sys, api.lean; api.lean.leave_out_what_is_not_called()"
CLIENTS = {
    "api": "address attachment background client errors lean messages methods nearest output retry roles tls toml "
    "trace version well_known",
    "api.protobuf": "decode encode make message types",
    "api.rpc": "access call_stream channel codec connect connection corrected_h2 events frames header_blocks headers "
    "http2 patience sender session share short_calls status stream windows",
    "jobcli": "cli detach exit_codes interactive profile render secret stdin tty writing",
    "jobcli.commands": "_command attach run stream",  # run can be told to attach; no other verb is there
}
"""Our modules that ``jobcli run`` loads, by their package."""
OTHERS = {
    *("attr", "attrs", "betterproto", "dateutil", "h2", "hpack", "hyperframe", "idna", "outcome", "purerpc"),
    *("sniffio", "sortedcontainers", "trio", "typing_extensions"),
}
"""And other people's packages."""


def test_jobcli_loads_what_its_verb_needs() -> None:
    """A cold command is little else than its modules: these, and no other; nothing that reads certificates, serves, or
    keeps, and no verb that was not asked for. Whoever adds one to the list makes each ``jobcli run`` slower."""
    code = f"import sys; there = {{*sys.modules}}; {LEAN}; import jobcli.cli"
    code += "; jobcli.cli.parse(['run', '--', 'true']); print(*{*sys.modules} - there)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    names = set(loaded.stdout.split())
    wanted = {f"{package}.{name}" for package, modules_ in CLIENTS.items() for name in modules_.split()} | {*CLIENTS}
    ours = {name for name in names if name.startswith(("api", "jobcli", "jobd", "pki"))}
    assert {name for name in ours if not name.startswith("api._generated")} == wanted
    strangers = {name.split(".")[0] for name in names} - {"api", "jobcli"} - sys.stdlib_module_names
    assert strangers <= OTHERS
    assert not {"sqlite3", "multiprocessing", "unittest", "asyncio.events"} & names


NEVER = {
    *("grpclib", "dateutil.tz", "importlib.metadata", "purerpc.client", "purerpc.server", "anyio"),
    *("asyncio.events", "betterproto.lib.std.google.protobuf", "idna.core"),
}


@pytest.mark.parametrize(
    ("program", "left_out"),
    [
        ("jobcli.cli", {"email", "tomllib._parser", *NEVER}),
        ("jobd.server", NEVER),  # cryptography loads the others
    ],
)
def test_a_program_does_not_load_what_it_never_needs(program: str, left_out: set[str]) -> None:
    """asyncio, what reads mail, calendars and packages, most of Google's messages; purerpc's client and server."""
    code = f"{LEAN}; import {program}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not left_out & set(loaded.stdout.split())


def test_what_is_left_out_is_betterproto_as_pinned() -> None:
    """Its version is the installed one's, and whoever loaded it before keeps it whole."""
    assert metadata.version("betterproto") == BETTERPROTO
    leave_out_what_is_not_called()
    assert betterproto.ServiceStub is not object


@pytest.mark.parametrize(
    "used",
    [
        "import idna, tomllib; from asyncio import Event; assert tomllib.loads('a = 1') == {'a': 1}; "
        "assert idna.encode('b\u00fccher.de', uts46=True) == b'xn--bcher-kva.de'",
        "import asyncio.events, idna.core, tomllib._parser",
    ],
)
def test_what_comes_late_comes_whole(used: str) -> None:
    """Who asks for something of it has it, whatever way; and from then on it is the module that it always was."""
    seen = "print(*sorted(name for name in api.lean.LATE if sys.modules[name].__spec__))"
    command = [sys.executable, "-c", f"{LEAN}; {used}; {seen}"]
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert ran.stdout.split() == ["asyncio", "idna", "tomllib"]


def test_the_launcher_needs_the_standard_library_alone() -> None:
    """What is the parent of every job imports nothing that could fail, grow, or speak to a network."""
    code = "import sys, jobd.cli, jobd.launcher.launcher, jobd.launcher.tracing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    ours = {name for name in loaded.stdout.split() if name.split(".")[0] in ("jobd", "api", "pki", "jobcli")}
    parts = {
        *(
            "front",
            "launcher",
            "visitors",
            "jobs",
            "children",
            "fork",
            "program",
            "become",
            "sandboxed",
            "orphans",
            "terminal",
        ),
        *("protocol", "procfs", "channel", "console", "tracing", "upgrade", "allowed", "family", "orders", "served"),
        *("signals", "systemd", "terminal"),
    }
    assert ours == {"jobd", "jobd.cli", "jobd.launcher", *(f"jobd.launcher.{part}" for part in parts)}
    assert not {"trio", "ssl", "asyncio", "cryptography", "structlog", "betterproto"} & set(loaded.stdout.split())


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_file_is_one_room(path: Path) -> None:
    """Most stay below 300 lines, none goes far beyond."""
    assert len(path.read_text().splitlines()) <= 400, f"{name_of(path)} is no longer one room"


def test_the_messages_in_place_of_google_s_are_the_same_on_the_wire() -> None:
    """As many of them as betterproto itself uses, with the same fields."""
    from betterproto.lib.std.google import protobuf as whole  # what no program of ours loads

    ours = {name: each for name, each in vars(well_known).items() if isinstance(each, type)}
    for name, each in ours.items():
        fields = {number: meta.proto_type for number, meta in _fields_of(each).items()}
        theirs = {number: meta.proto_type for number, meta in _fields_of(getattr(whole, name)).items()}
        assert fields == (theirs if name != "EnumValue" else {1: "string", 2: "int32"})


def _fields_of(message: type[betterproto.Message]) -> dict[int, betterproto.FieldMetadata]:
    return {meta.number: meta for meta in message()._betterproto.meta_by_field_name.values()}
