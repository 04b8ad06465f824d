"""Writes `build/proto-bundle`: every .proto file another language needs to generate its own stubs, and nothing else.

The third-party files are in it too, down to protobuf's well-known types, which some distributions of protoc leave
out. Our own Python stubs come from `generate.py`, never from here.
"""

import importlib.resources
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tools import fetch_third_party_protos

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "build" / "proto-bundle"

README = """\
# The Messmail contract

Everything needed to generate stubs, with no other download. For example, in this folder:

    protoc -I . --python_out=OUT $(find messmail -name '*.proto')

`messmail/` is the contract. `google/` and `buf/` are what it imports: generate them only where your
language's protobuf and googleapis packages do not bring them already.
"""


def write_bundle(bundle: Path) -> None:
    """Replaces the folder `bundle` by the current contract and all it imports."""
    fetch_third_party_protos.main()
    shutil.rmtree(bundle, ignore_errors=True)
    buf = Path(sys.executable).with_name("buf")
    subprocess.run([buf, "export", "proto", "--output", bundle], cwd=ROOT, check=True)
    copy_well_known_types(bundle)
    (bundle / "README.md").write_text(README, encoding="utf-8")
    shutil.copyfile(ROOT / "LICENSE", bundle / "LICENSE")


def copy_well_known_types(bundle: Path) -> None:
    """Copies the google.protobuf files that anything in the bundle imports, with their own imports."""
    source = importlib.resources.files("grpc_tools") / "_proto"
    missing = well_known_imports(bundle)
    while missing:
        for name in missing:
            fetch_third_party_protos.write_if_changed(bundle / name, (source / name).read_bytes())
        missing = well_known_imports(bundle)


def well_known_imports(bundle: Path) -> set[str]:
    """Returns the google.protobuf files that are imported in the bundle and not yet part of it."""
    imported: set[str] = set()
    for path in bundle.rglob("*.proto"):
        text = path.read_text(encoding="utf-8")
        imported.update(re.findall(r'^import (?:public )?"(google/protobuf/[^"]+)";', text, re.MULTILINE))
    return {name for name in imported if not (bundle / name).exists()}


def main() -> None:
    """Writes the bundle of this checkout and says where it is."""
    write_bundle(BUNDLE)
    print(f"{BUNDLE.relative_to(ROOT)}: {sum(1 for _ in BUNDLE.rglob('*.proto'))} .proto files")


if __name__ == "__main__":
    main()
