"""The contract is in order, and what was generated from it is what anybody would generate today."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.policy.source_tree import ROOT
from tools import bundle_protos, fetch_third_party_protos, write_error_reference

BUF = Path(sys.executable).with_name("buf")


@pytest.fixture(scope="module", autouse=True)
def third_party_protos() -> None:
    """Fills the cache, which needs the network on the first run only."""
    fetch_third_party_protos.main()


def buf(*arguments: str) -> str:
    """Runs buf on this checkout and returns what it complains of."""
    finished = subprocess.run([BUF, *arguments], cwd=ROOT, capture_output=True, text=True)
    return finished.stdout + finished.stderr if finished.returncode else ""


def contents(tree: Path) -> dict[str, bytes]:
    """Returns every file of a tree, without Python's caches."""
    files = (path for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in files}


def test_the_contract_keeps_the_lint_rules() -> None:
    assert buf("lint") == ""


def test_the_contract_is_formatted() -> None:
    assert buf("format", "--diff", "--exit-code", "proto") == ""


def test_the_contract_breaks_nothing_of_the_last_release() -> None:
    assert buf("breaking", "proto", "--against", "proto/baseline.binpb") == ""


def test_the_comparison_with_the_last_release_sees_a_removed_rpc(tmp_path: Path) -> None:
    copy_contract(tmp_path)
    proto = tmp_path / "proto/messmail/send_engine/v1/send_engine.proto"
    text = proto.read_text(encoding="utf-8")
    start = text.index("  rpc CancelSendJob(")
    proto.write_text(text[:start] + text[text.index("\n  }\n", start) + 5 :], encoding="utf-8")
    against = ["--against", str(ROOT / "proto/baseline.binpb")]
    finished = subprocess.run([BUF, "breaking", "proto", *against], cwd=tmp_path, capture_output=True, text=True)
    assert 'Previously present RPC "CancelSendJob"' in finished.stdout


def test_generating_again_changes_nothing_and_removes_what_is_stale(tmp_path: Path) -> None:
    copy_contract(tmp_path)
    shutil.copytree(ROOT / "generated", tmp_path / "generated", ignore=shutil.ignore_patterns("__pycache__"))
    stale = tmp_path / "generated/messmail/gone/v1/gone_pb2.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    # Nothing of it may depend on the order in which this Python happens to walk a set.
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-m", "tools.generate"], cwd=tmp_path, env=environment, check=True)
    assert contents(tmp_path / "generated") == contents(ROOT / "generated")
    assert not stale.parent.parent.exists()


def test_the_page_of_error_reasons_is_the_one_the_contract_gives() -> None:
    assert (ROOT / "docs/errors.md").read_text(encoding="utf-8") == write_error_reference.error_reference()


def test_the_bundle_generates_with_nothing_else(tmp_path: Path) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    bundle_protos.write_bundle(bundle)
    out.mkdir()
    protos = [path.relative_to(bundle).as_posix() for path in sorted(bundle.rglob("*.proto"))]
    assert {path.relative_to(ROOT / "proto").as_posix() for path in (ROOT / "proto").rglob("*.proto")} < set(protos)
    # Called as a function protoc knows no include folder but the one it is given.
    compile_alone = "import sys; from grpc_tools import protoc; sys.exit(protoc.main(['protoc', *sys.argv[1:]]))"
    command = [sys.executable, "-c", compile_alone, "--proto_path=.", f"--python_out={out}", *protos]
    finished = subprocess.run(command, cwd=bundle, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert (out / "messmail/send_engine/v1/send_engine_pb2.py").is_file()


def copy_contract(target: Path) -> None:
    """Copies all that generating needs: the contract, its configuration, the tools and the filled cache."""
    for name in ("proto", "tools", ".cache/proto"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("buf.yaml", "buf.gen.yaml"):
        shutil.copyfile(ROOT / name, target / name)
