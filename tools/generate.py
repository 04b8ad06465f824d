"""Writes `generated/` from `proto/`: messages, gRPC stubs, their types, and what makes them plain packages.

`make generate` is the only writer of that folder. The new tree is built aside and then put in place, so files whose
.proto is gone disappear and a failure changes nothing. What is generated with which plugin stands in buf.gen.yaml.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import extract_comments, fetch_third_party_protos

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ROOT / "generated"


def run_buf(into: Path) -> None:
    """Generates every input of buf.gen.yaml below `into`."""
    bin_folder = Path(sys.executable).parent
    path = os.pathsep.join([str(bin_folder), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    subprocess.run([bin_folder / "buf", "generate", "--output", str(into)], cwd=ROOT, env=environment, check=True)


def make_packages(tree: Path) -> None:
    """Gives every folder an `__init__.py` that says what it is, and each top-level package its py.typed.

    `buf` stays a namespace package: other distributions may put their own modules under that name.
    """
    packages = {folder for path in tree.rglob("*.py") for folder in path.relative_to(tree).parents} - {Path()}
    for package in sorted(packages - {Path("buf")}):
        docstring = f'"""Generated from {package.as_posix()} of the contract; `make generate` is its only writer."""\n'
        (tree / package / "__init__.py").write_text(docstring, encoding="utf-8")
    for package in (Path("messmail"), Path("buf/validate")):
        if package in packages:
            (tree / package / "py.typed").write_bytes(b"")


def drop_stubs_of_nothing(tree: Path) -> None:
    """Removes the gRPC type stubs that protoc-gen-mypy_grpc writes for files without a service."""
    for stub in tree.rglob("*_pb2_grpc.pyi"):
        if not stub.with_suffix(".py").exists():
            stub.unlink()


def put_in_place(tree: Path, target: Path) -> None:
    """Makes `target` equal to `tree`, leaving files that did not change untouched."""
    wanted = {path.relative_to(tree) for path in tree.rglob("*") if path.is_file()}
    present = {path.relative_to(target) for path in target.rglob("*") if path.is_file()}
    folders = {name.parent for name in wanted}
    for stale in present - wanted:
        is_cache_of_a_wanted_package = stale.parent.name == "__pycache__" and stale.parent.parent in folders
        if not is_cache_of_a_wanted_package:
            (target / stale).unlink()
    for name in sorted(wanted):
        fetch_third_party_protos.write_if_changed(target / name, (tree / name).read_bytes())
    for folder in sorted((path for path in target.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def main() -> None:
    """Regenerates the stubs of this checkout."""
    fetch_third_party_protos.main()
    with tempfile.TemporaryDirectory() as scratch:
        run_buf(Path(scratch))
        tree = Path(scratch, "generated")
        drop_stubs_of_nothing(tree)
        make_packages(tree)
        extract_comments.write_comments(tree / "messmail" / "comments.json")
        put_in_place(tree, GENERATED)


if __name__ == "__main__":
    main()
