"""Makes a Debian package of a wheel and of what it needs, as the lock has that: python .ci/debian/build.py RELEASE

What is in it is laid out as a virtual environment in /usr/lib/jobd, of Debian's own Python; docs/architecture.md says
why.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
DIST: Final = ROOT / "dist"
RELEASES: Final = {"12": "3.11", "13": "3.13"}
"""Those of Debian that there is a package for, and their Python."""
SUBGROUPS: Final = ("13",)
"""Those whose systemd starts a service in a control group below its own (254 and later)."""
PROGRAMS: Final = {"jobd": "jobd.cli", "jobcli": "jobcli.__main__", "jobpki": "pki.cli"}
PROGRAM: Final = """#!/usr/lib/jobd/bin/python3 -P
import sys

from {module} import main

sys.exit(main())
"""
DOCUMENTS: Final = (
    *("howto.md", "operations.md", "runbook.md", "security.md", "failure-model.md", "pool.md"),
    *("cli.md", "api.md", "limits.md", "metrics.md"),
)


def build(release: str) -> Path:
    """Make the package for a release in dist/, of the wheel there; returns its path."""
    [wheel] = DIST.glob("jobd-*.whl")
    version = f"{_version(wheel.name.split('-')[1])}+deb{release}"
    architecture = _output("dpkg", "--print-architecture")
    with tempfile.TemporaryDirectory() as name:
        stage = Path(name) / "stage"
        _install(stage, wheel, RELEASES[release])
        _programs(stage, RELEASES[release])
        _service(stage, release)
        _documents(stage, version)
        _control(stage, version, architecture, f"python{RELEASES[release]}")
        _modes(stage)
        package = DIST / f"jobd_{version}_{architecture}.deb"
        _run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(stage), str(package))
    return package


def _version(text: str) -> str:
    """As Debian sorts it: what comes before a release comes before it there too."""
    for mark in (".dev", "a", "b", "rc"):
        text = text.replace(mark, f"~{mark.lstrip('.')}")
    return text


def _install(stage: Path, wheel: Path, python: str) -> None:
    """The wheel, and what it needs, for that Python, whichever this one is; pages and completions to where Debian has
    them."""
    site = stage / "usr" / "lib" / "jobd" / "lib" / f"python{python}" / "site-packages"
    site.mkdir(parents=True)
    pip = ["uv", "pip", "install", "--quiet", f"--target={site}", f"--python-version={python}", "--link-mode=copy"]
    _run(*pip, "--only-binary=:all:", "--require-hashes", "-r", str(ROOT / ".ci" / "locks" / "run.txt"))
    _run(*pip, "--no-deps", str(wheel))
    shutil.move(site / "share", stage / "usr" / "share")
    zsh = stage / "usr" / "share" / "zsh"
    (zsh / "site-functions").rename(zsh / "vendor-completions")
    shutil.rmtree(site / "bin")
    for said in (*site.glob("*.dist-info/direct_url.json"), *site.glob("*.dist-info/uv_*.json"), *site.glob(".lock")):
        said.unlink()  # where it lay on this machine
    for page in (stage / "usr" / "share" / "man").rglob("*.1"):
        _compress(page.read_bytes(), page.with_name(f"{page.name}.gz"))
        page.unlink()


def _programs(stage: Path, python: str) -> None:
    """What makes of a directory a virtual environment, and its programs."""
    prefix = stage / "usr" / "lib" / "jobd"
    (prefix / "bin").mkdir()
    (prefix / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n")
    (prefix / "bin" / "python3").symlink_to(f"/usr/bin/python{python}")
    (stage / "usr" / "bin").mkdir()
    for name, module in PROGRAMS.items():
        (prefix / "bin" / name).write_text(PROGRAM.format(module=module))
        (stage / "usr" / "bin" / name).symlink_to(f"../lib/jobd/bin/{name}")


def _service(stage: Path, release: str) -> None:
    system = stage / "usr" / "lib" / "systemd" / "system"
    system.mkdir(parents=True)
    units = [("jobd.service", "jobd.service"), ("jobd.socket", "jobd.socket")]
    if release not in SUBGROUPS:
        (system / "jobd.service.d").mkdir()
        units.append(("before-254.conf", "jobd.service.d/before-254.conf"))
    for name, place in units:
        text = (ROOT / "docs" / "systemd" / name).read_text().replace("/usr/local/bin/", "/usr/bin/")
        (system / place).write_text(text.replace(f"# /etc/systemd/system/{place}: ", "# "))
    (stage / "etc" / "jobd").mkdir(parents=True)
    shutil.copy(HERE / "jobd.toml", stage / "etc" / "jobd")


def _documents(stage: Path, version: str) -> None:
    place = stage / "usr" / "share" / "doc" / "jobd"
    place.mkdir(parents=True)
    for name in ("copyright", "README.Debian"):
        shutil.copy(HERE / name, place)
    for name in DOCUMENTS:
        shutil.copy(ROOT / "docs" / name, place)
    overrides = stage / "usr" / "share" / "lintian" / "overrides"
    overrides.mkdir(parents=True)
    shutil.copy(HERE / "overrides", overrides / "jobd")
    shutil.copytree(ROOT / "docs" / "monitoring", place / "monitoring", ignore=shutil.ignore_patterns("*test*"))
    for sbom in DIST.glob("jobd-*.cdx.json"):
        _compress(sbom.read_bytes(), place / "sbom.cdx.json.gz")
    when = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(_epoch()))
    entry = f"jobd ({version}) unstable; urgency=medium\n\n  * See the project's change log.\n\n"
    entry += f" -- the authors of jobd <root@localhost>  {when}\n"
    _compress(entry.encode(), place / "changelog.gz")


def _control(stage: Path, version: str, architecture: str, python: str) -> None:
    files = sorted(path for path in stage.rglob("*") if path.is_file() and not path.is_symlink())
    sums = "".join(
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(stage)}\n"
        for path in files
    )
    size = sum(path.stat().st_size for path in files) // 1024
    control = stage / "DEBIAN"
    control.mkdir()
    template = (HERE / "control").read_text()
    text = template.format(version=version, architecture=architecture, python=python, size=size)
    (control / "control").write_text(text)
    (control / "md5sums").write_text(sums)
    (control / "conffiles").write_text("/etc/jobd/jobd.toml\n")
    for name in ("postinst", "prerm", "postrm"):
        shutil.copy(HERE / name, control)


def _modes(stage: Path) -> None:
    """Whatever the umask is here: everything can be read, and only root could change it."""
    scripts = {*(stage / "usr" / "lib" / "jobd" / "bin").iterdir()}
    scripts |= {stage / "DEBIAN" / name for name in ("postinst", "prerm", "postrm")}
    stage.chmod(0o755)
    for path in stage.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path in scripts else 0o644)


def _compress(data: bytes, path: Path) -> None:
    path.write_bytes(gzip.compress(data, 9, mtime=0))


def _epoch() -> int:
    return int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    for each in sys.argv[1:] or RELEASES:
        build(each)
