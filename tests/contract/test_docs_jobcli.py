"""What the documents say of jobcli's job files and JSON is what it reads and prints."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from api.messages import Job, JobSpec, Worker
from jobcli import job_file, render

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def section(heading: str) -> str:
    return OPERATIONS.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def named_in_table(text: str, header: str) -> list[str]:
    """What is set as code in the first column of the table with this header."""
    rows = re.findall(r"^\| (.*?) \|", text.split(f"| {header} |")[1].split("\n\n")[0], re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]


def test_the_job_file_that_is_shown_is_one(tmp_path: Path) -> None:
    """jobcli reads it: two jobs."""
    [shown] = re.findall(r"^    \[build\]\n(?:    .*\n|\n)+", section("Several jobs in one file"), re.MULTILINE)
    (tmp_path / "jobs.toml").write_text(textwrap.dedent(shown))
    (tmp_path / "token").write_text("hush\n")
    jobs = job_file.read(tmp_path / "jobs.toml")
    assert [job.asked["name"] for job in jobs] == ["build", "test"]
    assert jobs[0].asked["secrets"] == {"TOKEN": "hush"}


def test_every_key_of_a_job_file_is_told() -> None:
    """And no other."""
    assert sorted(named_in_table(section("Several jobs in one file"), "key | value")) == sorted(job_file.KEYS)


def test_every_field_of_the_json_is_told() -> None:
    """Of jobs and of workers; and no other."""
    text = section("What jobcli tells programs")
    assert sorted(named_in_table(text, "field of a job | what")) == sorted(render.job_facts(Job(spec=JobSpec())))
    assert sorted(named_in_table(text, "field of a worker | what")) == sorted(render.worker_facts(Worker()))
