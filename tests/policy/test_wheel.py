"""The wheel holds what an installation needs and nothing else, and works in an empty environment."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.policy.source_tree import PRODUCT, ROOT
from tools.install_locked import install, install_lock

SHIPPED_AS = {**{package: package for package in PRODUCT}, "generated/messmail": "messmail", "generated/buf": "buf"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("messmail-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the locked packages and the wheel."""
    environment = tmp_path_factory.mktemp("installed") / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    install_lock(ROOT / "requirements.lock", str(python))
    install(["--quiet", "--no-deps", str(wheel)], str(python))
    return python.parent


def run(command: list[str | Path], folder: Path) -> str:
    """Runs a command away from the checkout and its paths, and returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    wanted = {
        (Path(name) / path.relative_to(ROOT / folder)).as_posix()
        for folder, name in SHIPPED_AS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert shipped == wanted


@pytest.mark.slow
def test_the_installed_command_says_what_it_can(installed: Path, tmp_path: Path) -> None:
    assert "demo" in run([installed / "messmail", "--help"], tmp_path)


@pytest.mark.slow
def test_stubs_import_plainly_where_the_wheel_is_installed(installed: Path, tmp_path: Path) -> None:
    imports = "import messmail; from messmail.send_engine.v1 import send_engine_pb2_grpc; print(messmail.__path__[0])"
    assert run([installed / "python", "-c", imports], tmp_path).startswith(str(installed.parent))
