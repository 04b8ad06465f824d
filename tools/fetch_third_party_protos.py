"""Fills `.cache/proto` with the third-party .proto files that the contract imports.

They are copied out of pinned packages and never committed: google.api and google.rpc from the installed
googleapis-common-protos, buf.validate from the source distribution of protovalidate (no wheel carries it).
Once the cache is filled nothing here touches the network. Generating code is the business of `generate.py`.
"""

import hashlib
import importlib.metadata
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "proto"

GOOGLEAPIS = (
    "google/api/annotations.proto",
    "google/api/http.proto",
    "google/rpc/code.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
)

# 1.2.0 is the last release whose source distribution carries the file as such; the rules are those of 2.x, which
# the services run. Building it is never asked for, only its archive.
PROTOVALIDATE = "protovalidate==1.2.0"
PROTOVALIDATE_SHA256 = "4cb9a5065f32abc9baf2cf25c5bd09a139f7dffb7b8692f636a8e3e6883bb9a2"
VALIDATE_PROTO_IN_ARCHIVE = "protovalidate-1.2.0/upstream/proto/buf/validate/validate.proto"
VALIDATE_PROTO_SHA256 = "817951eab518442950f1982be24b2c3154b214b40e42f49b915cbf5181e6ee80"


def copy_googleapis(into: Path) -> None:
    """Copies the google protos of the installed googleapis-common-protos."""
    distribution = importlib.metadata.distribution("googleapis-common-protos")
    for name in GOOGLEAPIS:
        write_if_changed(into / name, Path(str(distribution.locate_file(name))).read_bytes())


def copy_validate_proto(into: Path) -> None:
    """Copies validate.proto; downloads its archive only when the cache does not hold the very file."""
    target = into / "buf" / "validate" / "validate.proto"
    if target.is_file() and sha256(target.read_bytes()) == VALIDATE_PROTO_SHA256:
        return
    with tempfile.TemporaryDirectory() as scratch:
        archive = download_protovalidate(Path(scratch))
        with tarfile.open(archive) as members:
            member = members.extractfile(VALIDATE_PROTO_IN_ARCHIVE)
            if member is None:
                raise SystemExit(f"{PROTOVALIDATE} does not hold {VALIDATE_PROTO_IN_ARCHIVE}")
            content = member.read()
    if sha256(content) != VALIDATE_PROTO_SHA256:
        raise SystemExit(f"validate.proto of {PROTOVALIDATE} is not the one expected")
    write_if_changed(target, content)


def download_protovalidate(into: Path) -> Path:
    """Downloads the source distribution with pip, which refuses one with another hash, and returns its path."""
    print(f"fetching {PROTOVALIDATE} for buf/validate/validate.proto", file=sys.stderr)
    requirement = into / "requirement.txt"
    requirement.write_text(f"{PROTOVALIDATE} --hash=sha256:{PROTOVALIDATE_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["--require-hashes", "--requirement", str(requirement), "--dest", str(into)]
    subprocess.run(command, check=True)
    return next(into.glob("protovalidate-*.tar.gz"))


def sha256(content: bytes) -> str:
    """Returns the hexadecimal digest."""
    return hashlib.sha256(content).hexdigest()


def write_if_changed(path: Path, content: bytes) -> None:
    """Writes a file unless it already holds exactly this."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def main() -> None:
    """Fills the cache of this checkout."""
    copy_googleapis(CACHE / "googleapis")
    copy_validate_proto(CACHE / "protovalidate")


if __name__ == "__main__":
    main()
