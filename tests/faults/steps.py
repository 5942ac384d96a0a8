"""The steps in which the server changes the world: found in the code, and each named in one of two tables.

A step is in ``STEPS``, which have a point before and after them (``failpoints``), or in ``EXEMPT`` with the reason.
"""

from __future__ import annotations

import ast
import inspect
from types import ModuleType
from typing import Any, Final, Protocol

from jobd.broker import ports as broker_ports
from jobd.broker.journal import PatientJournal
from jobd.launcher import link, relay
from jobd.launcher.launched import LaunchedProcess
from jobd.launcher.link import LauncherLink
from jobd.launcher.pipe import FdPipe
from jobd.launcher.stdin import FdStdin
from jobd.output import files, writer
from jobd.output.budget import Budget
from jobd.output.follower import LogFollower
from jobd.output.log import Log, LogStore
from jobd.storage import schema, sqlite
from jobd.storage.sqlite import SqliteStore
from jobd.worker import ports as worker_ports
from jobd.worker import stdin as worker_stdin
from jobd.worker.worker import Worker

PORTS: Final[dict[type, type]] = {
    worker_ports.Pipe: FdPipe,
    worker_ports.Process: LaunchedProcess,
    worker_stdin.Stdin: FdStdin,
    worker_ports.Launcher: LauncherLink,
    worker_ports.Follower: LogFollower,
    worker_ports.OutputLog: Log,
    worker_ports.OutputStore: LogStore,
    worker_ports.Journal: PatientJournal,
    broker_ports.Worker: Worker,
    broker_ports.Store: SqliteStore,
    broker_ports.Archive: LogStore,
    broker_ports.Pressure: Budget,
}
"""What the server changes the world through, and what that is in jobd."""
INSIDE: Final[tuple[ModuleType, ...]] = (writer, files, sqlite, schema, relay)
"""Modules whose functions are steps too: behind one call of a port, they change several things one after another."""

STEPS: Final[tuple[str, ...]] = (
    "Archive.delete",
    "Archive.recover",
    "Journal.commit",
    "Journal.note",
    "Journal.settle",
    "Launcher.launch",
    "Launcher.take_adopted",
    "OutputLog.finish",
    "OutputLog.leave",
    "OutputLog.resume",
    "OutputLog.take",
    "OutputLog.take_at_once",
    "Pipe.close",
    "Process.carry",
    "Process.exited",
    "Process.release",
    "Process.kill",
    "Process.signal",
    "Stdin.close",
    "Stdin.resize",
    "Stdin.write",
    "Store.delete",
    "Store.deleted",
    "Store.insert",
    "files._delete_file",
    "files._make_data",
    "files._make_index",
    "heard exited",
    "heard failed",
    "heard job",
    "heard launched",
    "heard leave",
    "heard signalled",
    "relay.Relay._move",
    "relay.Relay.close",
    "sent allow",
    "sent close_stdin",
    "sent elsewhere",
    "sent keep",
    "sent launch",
    "sent ready",
    "sent release",
    "sent saying",
    "sent signal",
    "sent signal_pids",
    "schema._make",
    "sqlite.SqliteStore._commit",
    "sqlite._outcome",
    "sqlite._tell",
    "writer.LogWriter._add",
    "writer.LogWriter._drop",
    "writer.LogWriter._go_on",
    "writer.LogWriter._mark",
    "writer.LogWriter._move",
    "writer.LogWriter._move_more",
    "writer.LogWriter._roll",
    "writer.LogWriter._seal",
)
_LIKE_SIGNAL: Final = "it is Process.signal for one of the processes"
_READS: Final = "it changes nothing"
_MEMORY: Final = "it changes what this process remembers, and that goes with it"
_PARTS: Final = "what it does is done by steps that have points"
_EARLY: Final = "what it has written is written later without it: a kill sees what the page cache has"
_STATEMENTS: Final = "each of its statements is a point: test_a_kill_at_any_statement_of_a_migration_loses_nothing"
EXEMPT: Final[dict[str, str]] = {
    "Process.signal_main": _LIKE_SIGNAL,
    **dict.fromkeys(
        (
            "Archive.follow",
            "Follower.at_hand",
            "Follower.close",
            "Follower.offset",
            "Follower.receive",
            "Launcher.find_outlived",
            "Launcher.identity",
            "OutputLog.dropped",
            "OutputLog.end",
            "OutputLog.follow",
            "OutputLog.over_limit",
            "Pipe.fileno",
            "Pressure.live",
            "Pressure.pressed",
            "Pressure.settle",
            "Pipe.wait_readable",
            "Launcher.containment",
            "Launcher.means",
            "Process.is_empty",
            "Process.main_pid",
            "Process.members",
            "Process.pid",
            "Process.pipe",
            "Process.proof",
            "Process.stdin",
            "Process.usage",
            "Worker.containment",
            "Worker.means",
            "Worker.usage",
            "Process.started_at",
            "Stdin.closed",
            "Stdin.terminal",
            "Stdin.wait_writable",
            "Store.deletions",
            "Store.ended",
            "Store.lately",
            "Store.live",
            "Store.page",
            "Store.requested",
            "Store.starting_with",
            "Store.totals",
            "Worker.launcher",
            "Worker.name",
            "Worker.progress",
            "Worker.slots",
            "Worker.stream",
            "files.Segment.entries",
            "heard alive",
            "sent alive",
            "files.Segment.entry_count",
            "files.Segment.read",
            "files.Segment.size",
            "files._index_of",
            "files.read_file",
            "relay._has_room",
            "files._path",
            "files.names_of",
            "schema.look_at",
            "files.starts_of",
            "schema._look",
            "schema._refusal",
            "sqlite.SqliteStore._see_that_it_is_there",
            "sqlite.SqliteStore.deletions",
            "sqlite.SqliteStore.ended",
            "sqlite.SqliteStore.get",
            "sqlite.SqliteStore.lately",
            "sqlite.SqliteStore.live",
            "sqlite.SqliteStore.page",
            "sqlite.SqliteStore.requested",
            "sqlite.SqliteStore.starting_with",
            "sqlite.SqliteStore.totals",
            "sqlite._jobs",
            "sqlite._sized",
            "sqlite._marks",
            "sqlite._requested",
            "writer.LogWriter._find",
            "writer.LogWriter._goes_on",
            "writer.LogWriter.flowing",
            "writer.LogWriter.over_limit",
            "writer.LogWriter.untouched",
        ),
        _READS,
    ),
    **dict.fromkeys(
        (
            "OutputStore.create",
            "Worker.attach",
            "Worker.forget",
            "files.Segment.close",
            "sqlite.SqliteStore._group",
            "sqlite.SqliteStore.close",
            "writer.LogWriter.leave",
            "writer.LogWriter.take_gap",
        ),
        _MEMORY,
    ),
    **dict.fromkeys(
        (
            "Worker.adopt",
            "Worker.adopt_outlived",
            "Worker.begin",
            "Worker.signal",
            "Worker.stop",
            "files.Segment._beside",
            "files.Segment._open",
            "files.Segment.create",
            "files.Segment.reopen",
            "files.delete",
            "files.write_all",
            "relay.Relay.carry",
            "relay.writing_end",
            "schema._connect",
            "schema._connection",
            "schema.open_database",
            "sqlite.SqliteStore._ask",
            "sqlite.SqliteStore._transact",
            "sqlite.SqliteStore.commit",
            "sqlite.SqliteStore.delete",
            "sqlite.SqliteStore.deleted",
            "sqlite.SqliteStore.insert",
            "sqlite.SqliteStore.note",
            "sqlite.SqliteStore.serve",
            "sqlite.SqliteStore.settle",
            "sqlite.forget",
            "sqlite._insert",
            "sqlite.update",
            "sqlite.open_store",
            "writer.LogWriter._missed",
            "writer.LogWriter._prepare",
            "writer.LogWriter._recorded",
            "writer.LogWriter.finish",
            "writer.LogWriter.resume",
            "writer.LogWriter.take",
            "writer.LogWriter.take_on",
        ),
        _PARTS,
    ),
    "schema._prepare": _STATEMENTS,
    "files.Segment.write_early": _EARLY,
}


# ---- the steps that there are


def steps_of_code() -> set[str]:
    """Every method of a port, every function of the modules in ``INSIDE``, and every message on the link."""
    found = {f"{port.__name__}.{name}" for port in ports_of_code() for name in _functions(vars(port))}
    for module in INSIDE:
        short = module.__name__.rpartition(".")[2]
        ours = {name: each for name, each in vars(module).items() if getattr(each, "__module__", "") == module.__name__}
        found |= {f"{short}.{name}" for name in _functions(ours)}
        for class_ in (each for each in ours.values() if inspect.isclass(each)):
            found |= {f"{short}.{class_.__name__}.{name}" for name in _functions(vars(class_))}
    return found | _messages()


def ports_of_code() -> set[type]:
    """Every port that there is."""
    modules = (worker_ports, worker_stdin, broker_ports)
    return {
        each
        for module in modules
        for each in vars(module).values()
        if inspect.isclass(each) and each.__module__ == module.__name__ and Protocol in each.__bases__
    }


def _functions(namespace: Any) -> set[str]:
    kinds = (property, classmethod, staticmethod)
    return {
        name
        for name, each in namespace.items()
        if not name.startswith("__") and (inspect.isfunction(each) or isinstance(each, kinds))
    }


def _messages() -> set[str]:
    """What the link says and hears: every ``{"op": "…"}`` and ``case "…"`` in it."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(link))):
        if isinstance(node, ast.Dict):
            found |= {
                f"sent {value.value}"
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "op" and isinstance(value, ast.Constant)
            }
        elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
            found.add(f"heard {node.value.value}")
    return found
