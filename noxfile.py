"""What a maintainer runs, by name: `nox -s lint`, `nox -s tests`, `nox -s docs`, and for a release `nox -t release`.

A release: raise `__version__` in vjepa_sdk/_version.py, name the section of CHANGELOG.md after it, commit,
`nox -t release`, tag, upload what is in dist/. CONTRIBUTING.md says which number of a version changes when.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.sessions = ["lint", "tests"]
nox.options.error_on_missing_interpreters = False
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
DIST = Path("dist")


@nox.session
def lint(session: nox.Session) -> None:
    """Lint, format and types, as CI checks them."""
    session.install(".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    for platform in ("linux", "darwin", "win32"):
        session.run("mypy", "--platform", platform)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, or those that are named: `nox -s tests -- tests/video`."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, to site/: strict, and with every link of every page followed."""
    # not the package: its sources are read, and nothing of it is imported
    session.install(*nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["docs"])
    session.run("python", "docs/sitegen/build_site.py")


@nox.session(tags=["release"])
def distributions(session: nox.Session) -> None:
    """Sdist and wheel, built twice with the same bytes, and checked, to dist/."""
    session.install("build", "twine", "check-wheel-contents")
    shutil.rmtree(DIST, ignore_errors=True)
    session.run("python", "tests/release/distributions.py", str(DIST))


@nox.session(python=PYTHONS, tags=["release"])
def smoke(session: nox.Session) -> None:
    """The wheel of dist/ in a fresh environment of each Python that is here, and every command once."""
    session.install(str(wheel(session)))
    session.run("python", "tests/release/smoke.py")


@nox.session(tags=["release"], venv_backend="venv")
def bill(session: nox.Session) -> None:
    """What a user gets along with the wheel: exact versions, a bill of materials (CycloneDX), known vulnerabilities."""
    session.install("cyclonedx-bom", "pip-audit")
    fresh = Path(session.create_tmp(), "fresh")
    session.run("python", "-m", "venv", "--clear", str(fresh))
    python = fresh / ("Scripts/python.exe" if (fresh / "Scripts").exists() else "bin/python")
    session.run(str(python), "-m", "pip", "install", "--quiet", str(wheel(session)), external=True)
    bill_file, lock = DIST.resolve() / "sbom.cdx.json", DIST.resolve() / "requirements.lock"
    session.run("cyclonedx-py", "environment", "--output-reproducible", "--output-file", str(bill_file), str(python))
    frozen = session.run(str(python), "-m", "pip", "freeze", "--exclude", "vjepa-sdk", external=True, silent=True)
    lock.write_text(str(frozen), encoding="utf-8")
    session.run("pip-audit", "--no-deps", "--disable-pip", "--requirement", str(lock))


def wheel(session: nox.Session) -> Path:
    """Return the wheel that `distributions` built."""
    wheels = sorted(DIST.glob("*.whl"))
    if len(wheels) != 1:
        session.error(f"dist/ holds {len(wheels)} wheels, and must hold one; run `nox -s distributions` first")
    return wheels[0].resolve()
