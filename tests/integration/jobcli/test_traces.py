"""``jobcli`` in a trace."""

from __future__ import annotations

from tests.support.jobcli import Jobcli

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_it_passes_on_the_trace_that_it_is_run_in(jobcli: Jobcli) -> None:
    """From its own environment to the job's, and says so when asked about the job."""
    traced = jobcli.but(TRACEPARENT=PARENT, TRACESTATE="a=1")
    found = (await traced.ok("run", "--", "env")).splitlines()
    assert {line for line in found if line.startswith("TRACE")} == {f"TRACEPARENT={PARENT}", "TRACESTATE=a=1"}
    job_id = (await traced.ok("start", "--", "true")).strip()
    assert f'"traceparent": "{PARENT}"' in await jobcli.ok("query", "--json", job_id)


async def test_a_trace_that_is_none_is_not_passed_on(jobcli: Jobcli) -> None:
    """And is no reason to fail."""
    found = (await jobcli.but(TRACEPARENT="yes").ok("run", "--", "env")).splitlines()
    assert not [line for line in found if line.startswith("TRACE")]
