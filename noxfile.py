"""The project's sessions. ``sh .ci/nox`` runs those that the gate runs; ``sh .ci/nox -s NAME`` runs one."""

from __future__ import annotations

import filecmp
import os
import secrets
import shutil
import sys
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["static", "suite"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True

# Tests start hundreds of Python programs: each would compile everything anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Processes that run tests. Those with daemons wait most of the time, for graces, restarts and ends; beside
# them, those of the logic have that time.
FEW, MANY, ALL = "3", "6", "8"
LOGIC = ("tests/unit", "tests/contract", "tests/compatibility", "tests/properties")
REALITY = ("tests/integration", "tests/interop", "tests/faults", "tests/hostile")
PROJECT = nox.project.load_toml("pyproject.toml")
LOCKS = {".ci/locks/run.txt": [], ".ci/locks/dev.txt": ["dev", "proto", "package", "plot"]}
"""What is pinned, with hashes, and for which dependency groups beside the programs' own dependencies."""
CODE = ["api", "jobd", "jobcli", "pki", "tests", ".ci/debian", "noxfile.py"]


def install(session: nox.Session, *groups: str) -> None:
    """Install the project, editable, with dependency groups of pyproject.toml."""
    wanted = nox.project.dependency_groups(PROJECT, *groups) if groups else ()
    session.install("--quiet", "-e", ".", *wanted)


@nox.session
def static(session: nox.Session) -> None:
    """lint, types and proto, in one environment: to make three takes the gate half a minute more."""
    install(session, "lint", "types", "proto")
    run_lint(session)
    session.run("mypy")
    run_proto(session)


@nox.session
def suite(session: nox.Session) -> None:
    """tests and integration together, and ordinary, in one environment. It goes on when the first fails."""
    install(session, "test", "interop")
    failed = []
    for run in (run_both, run_ordinary):
        try:
            run(session)
        except CommandFailed:
            failed.append({run_both: "tests and integration", run_ordinary: "ordinary"}[run])
    if failed:
        session.error(f"failed: {', '.join(failed)}")


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that needs no network: logic, real children, the record log, the store."""
    install(session, "test")
    run_tests(session)


def run_tests(session: nox.Session) -> None:
    session.run("pytest", "-n", FEW, *LOGIC, *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Real daemons, TLS, sockets and children; peers that are not ours (grpcio, grpc-js, connect-node, buf,
    openssl); kill -9."""
    install(session, "test", "interop")
    run_integration(session)


def run_integration(session: nox.Session) -> None:
    install_node_peers(session)
    # Some tests take a minute: nobody is to have several of them left when the others are done.
    session.run("pytest", "-n", MANY, "--dist", "worksteal", *REALITY, *session.posargs)


def run_both(session: nox.Session) -> None:
    install_node_peers(session)
    session.run("pytest", "-n", ALL, "--dist", "worksteal", *REALITY, *LOGIC, *session.posargs)


def install_node_peers(session: nox.Session) -> None:
    """grpc-js and connect-node, where Node.js is; without it their tests are skipped by name."""
    if shutil.which("npm") is None:
        return
    try:
        session.run("npm", "ci", "--silent", "--ignore-scripts", "--prefix", "tests/interop/node", external=True)
    except CommandFailed:
        session.warn("grpc-js and connect-node could not be installed: their tests are skipped")


@nox.session
def judges(session: nox.Session) -> None:
    """What OpenSSL, GnuTLS, pkilint and certvalidator say of our certificates and lists, sslscan and testssl of TLS,
    promtool of our rules; and whether Prometheus and Alertmanager tell somebody. Minutes. (.ci/judges installs those
    that are programs.)"""
    install(session, "test", "judges")
    files = ("test_pki_openssl.py", "test_pki_judges.py", "test_tls_judges.py", "test_alerting.py")
    asked = [*(f"tests/integration/{name}" for name in files), "tests/contract/test_monitoring.py"]
    session.run("pytest", *asked, *session.posargs, env={"JOBD_JUDGES": "1"})


@nox.session
def ordinary(session: nox.Session) -> None:
    """When we are root: what depends on who we are, as an ordinary user. Arguments: other tests (all: tests)."""
    if os.geteuid() != 0:
        session.skip("we are an ordinary user: the other sessions ran as one")
    install(session, "test")
    run_ordinary(session)


def run_ordinary(session: nox.Session) -> None:
    if os.geteuid() == 0:
        session.run("python", "-m", "tests.ordinary", f"-n{FEW}", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: rules and format."""
    session.install("--quiet", *nox.project.dependency_groups(PROJECT, "lint"))
    run_lint(session)


def run_lint(session: nox.Session) -> None:
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over the packages."""
    install(session, "types", "proto")
    session.run("mypy")


@nox.session
def proto(session: nox.Session) -> None:
    """The contract: buf lint, and the generated messages are those that the .proto files give."""
    install(session, "proto")
    run_proto(session)


def run_proto(session: nox.Session) -> None:
    with session.chdir("api/proto"):
        session.run("buf", "lint")
    fresh = Path(session.create_tmp()).resolve() / "generated"
    session.run("python", "api/proto/generate.py", str(fresh), silent=True)
    names = [str(path.relative_to(fresh)) for path in fresh.rglob("*") if path.is_file()]
    _, different, missing = filecmp.cmpfiles(fresh, "api/_generated", names, shallow=False)
    if different or missing:
        session.error(f"api/_generated is not up to date: {different + missing}; run 'sh .ci/nox -s generate'")


@nox.session
def generate(session: nox.Session) -> None:
    """Write api/_generated anew from the .proto files."""
    install(session, "proto")
    session.run("python", "api/proto/generate.py")


@nox.session
def lock(session: nox.Session) -> None:
    """Write .ci/locks anew from pyproject.toml. What is pinned stays if it may; with --upgrade, nothing does."""
    session.install("--quiet", *nox.project.dependency_groups(PROJECT, "package"))
    for name, groups in LOCKS.items():
        run_lock(session, name, groups, *session.posargs)


def run_lock(session: nox.Session, name: str, groups: list[str], *arguments: str) -> None:
    wanted = [f"--group={group}" for group in groups]
    fixed = ["--universal", "--generate-hashes", "--no-header", "--no-emit-index-url", "--no-emit-find-links"]
    session.run(
        "uv", "pip", "compile", "--quiet", "pyproject.toml", *wanted, *fixed, "--output-file", name, *arguments,
        silent=True,
    )  # fmt: skip


@nox.session
def news(session: nox.Session) -> None:
    """Show what docs/news will be in the change log; with --version 1.2.3, write it there and take the news away."""
    session.install("--quiet", *nox.project.dependency_groups(PROJECT, "news"))
    draft = ["--draft", "--version", "next"] if not session.posargs else ["--yes"]
    session.run("towncrier", "build", *draft, *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """sdist and wheel in dist/, with man pages, completions and an SBOM; each is installed and tried; minutes."""
    install(session, "package", "test")
    dated = run_build(session)
    run_sbom(session)
    session.run("pytest", "tests/packages", *session.posargs, env={**dated, "JOBD_DIST": "dist"})
    run_locks_are_up_to_date(session)


@nox.session
def debian(session: nox.Session) -> None:
    """A .deb for each Debian in dist/, of the wheel that is made first; each is installed and purged; minutes."""
    install(session, "package", "test")
    dated = run_build(session, "--wheel")
    run_sbom(session)
    session.run("python", ".ci/debian/build.py", env=dated)
    session.run("pytest", "tests/packages/test_debian.py", *session.posargs, env={**dated, "JOBD_DIST": "dist"})


def run_build(session: nox.Session, *options: str) -> dict[str, str]:
    """Make sdist and wheel in dist/, or what is asked for; returns what the environment has of their date."""
    when = session.run("git", "log", "-1", "--format=%ct", external=True, silent=True, success_codes=[0, 128]) or ""
    dated = {"SOURCE_DATE_EPOCH": when.strip()} if when.strip().isdecimal() else {}
    for made in ("build/share", "dist"):
        shutil.rmtree(made, ignore_errors=True)
    session.run("python", "docs/manual.py", "build/share", env=dated)
    session.run("python", "-m", "build", "--no-isolation", *options, "--outdir", "dist", env=dated, silent=True)
    return dated


def run_sbom(session: nox.Session) -> None:
    [wheel] = Path("dist").glob("*.whl")
    place = Path(session.create_tmp()).resolve() / "environment"
    python = str(place / "bin" / "python")
    session.run("uv", "venv", "--quiet", "--clear", str(place))
    session.run("uv", "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", next(iter(LOCKS)))
    session.run("uv", "pip", "install", "--quiet", "--python", python, "--no-deps", str(wheel))
    output = [
        "--output-reproducible",
        "--output-format=JSON",
        f"--output-file=dist/{wheel.stem.split('-py3')[0]}.cdx.json",
    ]
    session.run("cyclonedx-py", "environment", "--pyproject=pyproject.toml", *output, python)


def run_locks_are_up_to_date(session: nox.Session) -> None:
    for name, groups in LOCKS.items():
        fresh = Path(session.create_tmp()).resolve() / Path(name).name
        shutil.copy(name, fresh)
        run_lock(session, str(fresh), groups)
        if fresh.read_text() != Path(name).read_text():
            session.error(f"{name} is not up to date: run 'sh .ci/nox -s lock'")


@nox.session
def demo(session: nox.Session) -> None:
    """The main job on real input: a daemon, clients, several jobs, one stopped, one refused to a reader.

    Argument "pool": a pool of five machines, on three members of etcd; a leader stops, a machine dies."""
    if session.posargs[:1] == ["pool"]:
        install(session, "test", "interop")
        session.run("python", "-m", "tests.demo_pool", *session.posargs[1:])
        return
    install(session)
    session.run("python", "tests/demo.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks, each next to a reference in the same run."""
    install(session, "test", "interop", "plot")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """A longer run of kills at random moments, with a seed printed; minutes. First of one machine, then of a pool.

    Arguments: those of one machine's; or "pool", and then those of a pool's.
    """
    install(session, "test", "interop")
    pool = session.posargs[:1] == ["pool"]
    if not pool:
        session.run("python", "-m", "tests.faults.chaos", *session.posargs)
    if pool or not session.posargs:
        session.run("python", "-m", "tests.faults.pool_chaos", *session.posargs[1:])


@nox.session
def hostile(session: nox.Session) -> None:
    """Every attack against a real jobd, beside a neighbour; a table of answers, latencies and memory; minutes."""
    install(session, "test")
    session.run("python", "-m", "tests.hostile", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """A thousand starts and stops in each kind of containment leave nothing behind; minutes."""
    install(session, "test")
    session.run("python", "-m", "tests.faults.soak", *session.posargs)


@nox.session
def matrix(session: nox.Session) -> None:
    """Every tree of processes alone, in every kind of containment, ended in every way, and one that nobody can read;
    minutes."""
    install(session, "test")
    session.run("python", "-m", "tests.faults.matrix", *session.posargs)
    unreadable = ("tests/faults/test_hostile_job.py", "-k", "let_itself_be_read")
    session.run("pytest", *unreadable, env={"JOBD_TESTS_ALONE": "1"})


@nox.session
def machine(session: nox.Session) -> None:
    """jobd where control groups of version 2 have controllers, and under systemd: in a machine of its own; minutes."""
    install(session, "test")
    session.run("python", "-m", "tests.machine", *session.posargs)


@nox.session
def model(session: nox.Session) -> None:
    """Longer runs of the models: of the broker's records (with a seed printed), and of a pool; minutes. Argument: how
    many sequences of the first."""
    install(session, "test")
    examples, seed = (session.posargs or ["5000"])[0], secrets.randbelow(2**32)
    session.log(f"seed {seed}")
    session.run(
        "pytest",
        "tests/properties",
        "--hypothesis-profile=others",
        f"--hypothesis-seed={seed}",
        *session.posargs[1:],
        env={"JOBD_MODEL_EXAMPLES": examples},
    )


if __name__ == "__main__":
    sys.exit("run me with: sh .ci/nox")
