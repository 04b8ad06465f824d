"""`messmail up` from the installed wheel, away from the checkout: as whoever runs the tests, and as an ordinary user.

Neither changes a permission outside its data directory. As root, a second environment is made with a Python that an
ordinary user can run; for an ordinary user both are the same.
"""

import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.policy.source_tree import ROOT
from tests.stack import wait_until
from tools.install_locked import install, install_lock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@dataclass(frozen=True)
class User:
    """Somebody to run as; None is whoever runs the tests."""

    uid: int | None
    gid: int | None

    def command(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **self.identity)

    @property
    def identity(self) -> dict[str, Any]:
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}


def users() -> list[str]:
    return ["root", "ordinary"] if os.geteuid() == 0 else ["ordinary"]


def find_user(name: str) -> User:
    if name == "ordinary" and os.geteuid() == 0:
        # daemon, and not nobody: PostgreSQL of a stack that root starts may run as that one.
        account = pwd.getpwnam("daemon")
        return User(account.pw_uid, account.pw_gid)
    return User(None, None)


def python_for(user: User) -> str:
    """Finds a Python >= 3.11 that the user can run."""
    wanted = "import sys, venv; raise SystemExit(sys.version_info < (3, 11))"
    candidates = [
        os.path.realpath(sys.executable),
        *(f"/usr/bin/python3{minor}" for minor in ("", ".14", ".13", ".12", ".11")),
    ]
    for candidate in candidates:
        try:
            if Path(candidate).exists() and user.command(candidate, "-c", wanted).returncode == 0:
                return candidate
        except PermissionError:
            continue
    pytest.skip("not run: no Python here that an ordinary user can run")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("messmail-*.whl"))


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody can enter, as /home is."""
    folder = Path(tempfile.mkdtemp(prefix="messmail-wheel-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def permissions(*folders: Path) -> dict[str, tuple[int, int, int]]:
    """Notes mode and owners of the folders, of all above them, and of all below the first."""
    noted = {path for folder in folders for path in (folder, *folder.parents)} | set(folders[0].rglob("*"))
    found = {str(path): path.lstat() for path in noted if "__pycache__" not in path.parts}
    return {path: (stat.S_IMODE(entry.st_mode), entry.st_uid, entry.st_gid) for path, entry in found.items()}


@pytest.mark.parametrize("name", users())
def test_up_works_from_the_wheel_and_changes_no_permission(wheel: Path, place: Path, name: str) -> None:
    user = find_user(name)
    environment = place / "environment"
    subprocess.run([python_for(user), "-m", "venv", "--without-pip", environment], check=True)
    install_lock(ROOT / "requirements.lock", str(environment / "bin/python"))
    install(["--quiet", "--no-deps", str(wheel)], str(environment / "bin/python"))
    home = place / "home"
    home.mkdir()
    if user.uid is not None:
        os.chown(home, user.uid, user.gid or 0)
    before = permissions(environment, home)
    ready, output = home / "ready.json", place / "up.log"
    anywhere = [
        part
        for one in ("http", "member-center", "send-engine", "mailbox", "smtp")
        for part in (f"--{one}", "127.0.0.1:0")
    ]
    messmail = str(environment / "bin" / "messmail")
    settings = {"PATH": os.defpath, "HOME": str(home), "LANG": "C.UTF-8"}
    with output.open("wb") as log:
        up = subprocess.Popen(
            [messmail, "up", "--data-dir", "data", "--ready-file", str(ready), *anywhere],
            stdout=log,
            stderr=log,
            cwd=home,
            env=settings,
            **user.identity,
        )
    try:

        def is_ready() -> bool:
            assert up.poll() is None, output.read_text()
            return ready.exists()

        wait_until(is_ready, "messmail up", 180)
        made = subprocess.run(
            [messmail, "tenants", "create", "--name", "Acme", "--data-dir", "data", "--json"],
            cwd=home,
            env=settings,
            capture_output=True,
            text=True,
            check=False,
            **user.identity,
        )
        assert made.returncode == 0, made.stderr
        assert json.loads(made.stdout)["tenant_id"]
    finally:
        up.send_signal(signal.SIGTERM)
        status = up.wait(90)
    assert status == 0, output.read_text()
    assert permissions(environment, home) == before
