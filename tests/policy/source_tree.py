"""Reads the repository as source: its modules, their layers and what they import.

The policy tests judge; this only looks, with the AST and without importing anything.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("servicekit", "member_center", "send_engine", "gateway", "messmail_cli", "local_stack")
SERVICES = ("member_center", "send_engine")


@dataclass(frozen=True)
class Module:
    """One Python file under its dotted name."""

    name: str
    path: Path

    @property
    def package(self) -> str:
        """The top-level package."""
        return self.name.partition(".")[0]

    @property
    def layer(self) -> str:
        """The layer of a service's module, told by the first part of its name; everything not special is a noun."""
        parts = self.name.split(".")[1:] or [""]
        if "records" in parts:
            return "records"
        if "servicer" in parts[0]:
            return "servicer"
        return parts[0] if parts[0] in ("wiring", "actors", "sweeper", "storage") else "noun"

    @property
    def imports(self) -> frozenset[str]:
        """Every dotted name it imports, at any depth of its code."""
        return frozenset(imported_names(self.path.read_text(encoding="utf-8"), self.name, self.is_package))

    @property
    def is_package(self) -> bool:
        """Whether it is a package's `__init__`."""
        return self.path.name == "__init__.py"


def imported_names(source: str, importer: str, is_package: bool = False) -> Iterator[str]:
    """Yields `a.b` for `import a.b` and `a.b.c` for `from a.b import c`, relative ones resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = importer.split(".")
                kept = above[: len(above) - node.level + is_package]
                base = ".".join([*kept, base] if base else kept)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules_below(folder: Path, root: Path = ROOT) -> list[Module]:
    """Returns the modules of one folder, in order of their names."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found.append(Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def product_modules() -> list[Module]:
    """Returns every module that ships in the wheel, except the generated ones."""
    return [module for package in PRODUCT for module in modules_below(ROOT / package)]


def own_modules() -> list[Module]:
    """Returns every module we write: the product's, the tests', the tools' and the benches'."""
    return product_modules() + [module for name in ("tests", "tools", "bench") for module in modules_below(ROOT / name)]


def is_within(name: str, packages: Iterable[str]) -> bool:
    """Tells whether a dotted name is one of the packages or lies in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)
