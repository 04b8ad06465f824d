"""Installs a lock file, and the project itself in editable form, into the environment that runs this.

uv does it in a fraction of pip's time, so the lock's own uv is installed first. Where uv cannot reach the packages
(it does not read pip's configuration, so a mirror named there is unknown to it), pip does the same work.
Locking is the business of `make lock`.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
UV = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--python", sys.executable]


def install(lock: Path) -> None:
    """Installs everything the lock names, with its hashes."""
    install_uv(lock)
    wanted = ["--require-hashes", "--requirement", str(lock)]
    if subprocess.run([*UV, *wanted]).returncode != 0:
        print("uv could not install the packages; pip takes over", file=sys.stderr)
        subprocess.run([*PIP, *wanted], check=True)


def install_uv(lock: Path) -> None:
    """Installs the very uv that the lock pins."""
    pinned = re.search(r"^uv==.*\\\n(?: +--hash=\S+(?: \\)?\n)+", lock.read_text(encoding="utf-8"), re.MULTILINE)
    if pinned is None:
        raise SystemExit(f"{lock} does not pin uv")
    with tempfile.TemporaryDirectory() as scratch:
        only_uv = Path(scratch, "uv.txt")
        only_uv.write_text(pinned.group(), encoding="utf-8")
        subprocess.run([*PIP, "--quiet", "--require-hashes", "--requirement", str(only_uv)], check=True)


def install_project() -> None:
    """Makes the checkout's packages, its stubs and the `messmail` command importable, without building anything."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    if subprocess.run([*UV, *options]).returncode != 0:
        subprocess.run([*PIP, *options], check=True)


def main() -> None:
    """Installs the lock named on the command line, then the project."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("lock", type=Path)
    install(parser.parse_args().lock)
    install_project()


if __name__ == "__main__":
    main()
