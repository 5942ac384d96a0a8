"""The rules and the dashboard that are kept with the code name what there is, and the documents name the alerts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jobd.metrics.catalogue import METRICS

DOCS = Path(__file__).parents[2] / "docs"
ALERTS, DASHBOARD = DOCS / "monitoring" / "alerts.yml", DOCS / "monitoring" / "dashboard.json"
PROMTOOL = shutil.which("promtool")
OF_A_PROCESS = {"process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"}


def samples() -> set[str]:
    """What there is to ask for."""
    return OF_A_PROCESS | {
        name
        for metric in METRICS
        for name in (
            [f"{metric.name}_{end}" for end in ("bucket", "sum", "count")]
            if metric.kind == "histogram"
            else [metric.name]
        )
    }


def named_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:jobd|process)_[a-z_]+\b", text))


def expressions() -> list[str]:
    """Those of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_names_are_as_prometheus_has_them() -> None:
    """A prefix, base units, and _total for what only grows."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"jobd_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")
        assert metric.kind != "histogram" or metric.name.endswith("_seconds")
        assert not {"le", "job", "instance"} & set(metric.labels), "Prometheus' own"


def test_alerts_look_at_metrics_that_there_are() -> None:
    """A rule about nothing never fires."""
    named = named_in(ALERTS.read_text())
    assert named
    assert named <= samples()


def test_the_dashboard_shows_metrics_that_there_are_and_all_of_them() -> None:
    """A panel of nothing is empty; a metric that nobody sees need not be there."""
    named = named_in(" ".join(expressions()))
    assert named <= samples()
    shown = {re.sub(r"_bucket$", "", name) for name in named}
    assert {metric.name for metric in METRICS} <= shown


def test_the_dashboard_fits() -> None:
    """No two panels have the same number, or overlap."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        fields = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not fields & taken, panel["title"]
        taken |= fields


def test_the_documents_say_what_to_do_about_each_alert() -> None:
    """And about no other."""
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    table = (DOCS / "operations.md").read_text().split("### When an alert fires")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == alerts


@pytest.mark.skipif(PROMTOOL is None, reason="the program promtool is not installed")
def test_promtool_takes_the_rules() -> None:
    """Prometheus' own checker: syntax, expressions and templates."""
    done = subprocess.run([str(PROMTOOL), "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="the program promtool is not installed")
def test_the_rules_fire_when_they_should() -> None:
    """And when they should not, they do not: times that are made up, in docs/monitoring/alerts_test.yml."""
    command = [str(PROMTOOL), "test", "rules", str(ALERTS.with_name("alerts_test.yml"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def block(name: str) -> str:
    """A file that the documents show."""
    [found] = re.findall(rf"```yaml\n(# {name}\n.*?)```", (DOCS / "operations.md").read_text(), re.DOTALL)
    return str(found)


@pytest.mark.skipif(PROMTOOL is None, reason="the program promtool is not installed")
def test_promtool_takes_the_configuration_that_the_documents_show(tmp_path: Path) -> None:
    """With the rules beside it."""
    (tmp_path / "prometheus.yml").write_text(block("prometheus.yml"))
    (tmp_path / "alerts.yml").write_text(ALERTS.read_text())
    command = [str(PROMTOOL), "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alertmanager_tells_of_each_severity_to_somebody_that_there_is() -> None:
    """As the documents show it: what it routes by is what the rules have, and each receiver is one."""
    shown = block("alertmanager.yml")
    severities = set(re.findall(r"severity: (\w+)", ALERTS.read_text()))
    routed = set(re.findall(r"severity = \"(\w+)\"", shown))
    assert severities - routed == {"warning"}, "which is the root's"
    assert routed < severities
    assert set(re.findall(r"receiver: (\w+)", shown)) == set(re.findall(r"- name: (\w+)", shown))
    inhibiting = set(re.findall(r"alertname = \"(\w+)\"", shown))
    assert inhibiting <= set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))


def test_what_the_rules_are_tried_with_are_alerts_and_metrics_that_there_are() -> None:
    """Where promtool is not installed too."""
    text = ALERTS.with_name("alerts_test.yml").read_text()
    alerts = set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
    assert set(re.findall(r"alertname: (\w+)", text)) <= alerts
    assert set(re.findall(r"alertname: (\w+)\n +exp_alerts:", text)) == alerts, "each is seen to fire"
    assert set(re.findall(r"series: '(jobd_\w+)", text)) <= samples()
