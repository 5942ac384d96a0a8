"""What the programs can say, read from their code: events of the log, lines of the launcher, reasons of the API."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from jobd.service.errors import STATUSES
from jobd.worker.job import Reason

ROOT: Final = Path(__file__).parents[2]
LOUD: Final = frozenset({"warning", "error", "exception", "critical"})
Function = ast.FunctionDef | ast.AsyncFunctionDef
SAY: Final = frozenset({"say", "_say"})


@cache
def _trees() -> dict[Path, ast.Module]:
    paths = [path for package in ("api", "jobd") for path in sorted((ROOT / package).rglob("*.py"))]
    return {path: ast.parse(path.read_text()) for path in paths if "_generated" not in path.parts}


def _calls(below: str = "") -> Iterator[tuple[ast.Call, ast.FunctionDef | ast.AsyncFunctionDef | None]]:
    """Each call, and the function that it stands in."""

    def walk(
        node: ast.AST, function: ast.FunctionDef | ast.AsyncFunctionDef | None
    ) -> Iterator[tuple[ast.Call, object]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield child, function
            inner = child if isinstance(child, Function) else function
            yield from walk(child, inner)

    for path, tree in _trees().items():
        if str(path.relative_to(ROOT)).startswith(below):
            yield from walk(tree, None)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.expr) -> str | None:
    """A text that stands there; what is put into it is "…"."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


def _given(function: str, below: str) -> set[str]:
    """The texts that calls of a function begin with."""
    calls = (call for call, _ in _calls(below) if _name(call.func) == function and call.args)
    return {text for call in calls if (text := _text(call.args[0]))}


def loud_events() -> set[str]:
    """The events of the log at warning and above."""
    found: set[str] = set()
    for path in _trees():
        place = str(path.relative_to(ROOT))
        for call, function in _calls(place):
            func = call.func
            if not (isinstance(func, ast.Attribute) and func.attr in LOUD and _name(func.value) == "log"):
                continue
            text = _text(call.args[0])
            if text is None:  # an argument of the function: whoever calls it says it
                assert function, ast.unparse(call)
                assert _name(call.args[0]) in {each.arg for each in function.args.args}, ast.unparse(call)
                found |= _given(function.name, place if function.name.startswith("_") else "")
            else:
                found.add(text)
    return found


def launcher_lines() -> set[str]:
    """What the launcher and the front say on stderr."""
    calls = (call for call, _ in _calls("jobd/launcher") if _name(call.func) in SAY and call.args)
    return {text for call in calls if (text := _text(call.args[0]))}


def reasons() -> set[str]:
    """Those of errors (``google.rpc.ErrorInfo.reason``)."""
    found = {reason for _, reason in STATUSES.values()}
    names: set[str] = set()
    for call, _ in _calls():
        given = [each.value for each in call.keywords if each.arg == "reason"]
        if _name(call.func) == "Refusal" and call.args:
            given.append(call.args[0])
        for value in given:
            text = _text(value)
            if text and text.isupper():
                found.add(text)
            names.add(_name(value))
    return found | _constants(names)


def _constants(names: set[str]) -> set[str]:
    """The texts of module constants of these names."""
    found = set()
    for tree in _trees().values():
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and node.value and _name(node.target) in names:
                text = _text(node.value)
                found |= {text} if text and text.isupper() else set()
    return found


def job_reasons() -> set[str]:
    """Why a job is in its state."""
    return {str(reason) for reason in Reason if reason}
