"""The tests here start and stop services of the machine that they run in: nowhere but in the one made for them."""

from pathlib import Path

collect_ignore_glob = [] if Path("/etc/systemd/system/jobd-tests.service").exists() else ["test_*.py"]
