"""The main job on real input: ``sh .ci/nox -s demo``.

Makes a CA and certificates with jobpki, starts a real jobd, and works with it through jobcli: several jobs whose
output is seen, one stopped, one refused to a reader. Every step shows the command that a person would type.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.patience import patient

JOBS = """\
[hello]
argv = ["sh", "-c", "echo hello from $(uname -s), pid $$"]

[count]
argv = ["sh", "-c", "for i in 1 2 3; do echo step $i; sleep 0.1; done"]

[trouble]
argv = ["sh", "-c", "echo something went wrong >&2; exit 3"]
env = { LC_ALL = "C" }
"""


class Demo:
    """Runs the programs of the project as a person would, and shows what they say."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {**os.environ, "XDG_CONFIG_HOME": str(directory / "config")}

    def say(self, text: str) -> None:
        print(f"\n# {text}", flush=True)

    def run(self, *command: str, expect: int = 0) -> str:
        """Show and run a command; give its stdout. The demo ends here when the exit code is not the expected one."""
        print(f"$ {shlex.join(command)}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", {"jobpki": "pki"}.get(command[0], command[0]), *command[1:]],
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
            check=False,
        )
        print(done.stdout, end="", flush=True)
        if done.returncode != expect:
            sys.exit(f"demo: that ended with code {done.returncode}, and {expect} was expected")
        if expect:
            print(f"(exit code {done.returncode})", flush=True)
        return done.stdout

    def connect_as(self, name: str, server: str) -> None:
        pki = self.directory / "pki"
        self.environment |= {
            "JOBCLI_SERVER": server,
            "JOBCLI_CERT": str(pki / f"{name}.crt"),
            "JOBCLI_KEY": str(pki / f"{name}.key"),
            "JOBCLI_CA": str(pki / "ca.crt"),
        }


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="jobd-demo-") as name:
        directory = Path(name)
        demo = Demo(directory)
        pki = str(directory / "pki")
        demo.say("A CA, a certificate for the server, one for a writer and one for a reader")
        demo.run("jobpki", "init", pki)
        demo.run("jobpki", "server", pki, "--host", "localhost", "--host", "127.0.0.1")
        demo.run("jobpki", "client", pki, "alice", "--role", "writer")
        demo.run("jobpki", "client", pki, "rita", "--role", "reader")
        demo.say("A daemon, on a free port of this machine")
        with start_jobd(directory) as (process, server):
            try:
                work(demo, server)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=patient(20))
        print("\ndemo: everything went as it should", flush=True)


class start_jobd:  # noqa: N801 # reads as the step that it is
    """The daemon, for the length of a block."""

    def __init__(self, directory: Path) -> None:
        pki = directory / "pki"
        self.command = [
            "jobd", "--cert", f"{pki}/server.crt", "--key", f"{pki}/server.key", "--ca", f"{pki}/ca.crt",
            "--listen", "127.0.0.1:0", "--state", f"{directory}/state", "--log-level", "warning",
        ]  # fmt: skip

    def __enter__(self) -> tuple[subprocess.Popen[str], str]:
        print(f"$ {shlex.join(self.command)} &", flush=True)
        self.process = subprocess.Popen([sys.executable, "-m", *self.command], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        print(ready, end="", flush=True)
        return self.process, "localhost:" + ready.strip().rpartition(":")[2]

    def __exit__(self, *_: object) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()


def work(demo: Demo, server: str) -> None:
    demo.connect_as("alice", server)
    demo.say("alice, a writer, runs a command: its output is hers, and so is its exit code")
    demo.run("jobcli", "run", "--", "sh", "-c", "echo out; echo err >&2; exit 7", expect=7)
    demo.say("Several jobs at once, from a file; then the output of all, with names in front")
    jobs = demo.directory / "jobs.toml"
    jobs.write_text(JOBS)
    print(f"$ cat {jobs}\n{JOBS}", end="")
    ids = demo.run("jobcli", "start", "--file", str(jobs)).split()
    demo.run("jobcli", "stream", *ids)
    demo.run("jobcli", "wait", *ids, expect=3)
    demo.say("A long job, seen in the pool, and stopped with everything that it started")
    long = demo.run("jobcli", "start", "--name", "long", "--", "sh", "-c", "sleep 600 & sleep 600").strip()
    demo.run("jobcli", "workers")
    demo.run("jobcli", "stop", long)
    demo.run("jobcli", "query", long)
    demo.say("rita, a reader, may look, and may not start")
    demo.connect_as("rita", server)
    demo.run("jobcli", "list")
    demo.run("jobcli", "stream", ids[1])
    demo.run("jobcli", "start", "--", "true", expect=125)


if __name__ == "__main__":
    main()
