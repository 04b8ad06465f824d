"""Installs a lock file into an environment, and the project itself in editable form.

uv does it in a fraction of pip's time, so the lock's own uv is installed first, beside the Python that runs this.
Where uv cannot reach the packages (it does not read pip's configuration, so a mirror named there is unknown to it),
pip does the same work. Locking is the business of `make lock`.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def install_lock(lock: Path, python: str) -> None:
    """Installs everything the lock names into the environment of `python`, with its hashes."""
    install(["--require-hashes", "--requirement", str(lock)], python)


def install_project(python: str) -> None:
    """Makes the checkout's packages, its stubs and the `messmail` command importable, without downloading anything."""
    install(["--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], python)


def install(arguments: Sequence[str], python: str) -> None:
    """Runs uv's installer, and pip's where uv fails; raises CalledProcessError when both do."""
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--python", python]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install"]
    if subprocess.run([*uv, *arguments]).returncode != 0:
        print("uv could not install this; pip takes over", file=sys.stderr)
        subprocess.run([*pip, *arguments], check=True)


def install_uv(lock: Path) -> None:
    """Installs the very uv that the lock pins, with pip."""
    pinned = re.search(r"^uv==.*\\\n(?: +--hash=\S+(?: \\)?\n)+", lock.read_text(encoding="utf-8"), re.MULTILINE)
    if pinned is None:
        raise SystemExit(f"{lock} does not pin uv")
    with tempfile.TemporaryDirectory() as scratch:
        only_uv = Path(scratch, "uv.txt")
        only_uv.write_text(pinned.group(), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "--quiet", "--require-hashes", "--requirement", str(only_uv)], check=True)


def main() -> None:
    """Installs the lock named on the command line, then the project, into the environment that runs this."""
    parser = argparse.ArgumentParser(description="Installs a lock file, then this project, into this environment.")
    parser.add_argument("lock", type=Path)
    lock = parser.parse_args().lock
    install_uv(lock)
    install_lock(lock, sys.executable)
    install_project(sys.executable)


if __name__ == "__main__":
    main()
