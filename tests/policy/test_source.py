"""How the source reads: names, sizes, docstrings."""

import ast

import pytest

from tests.policy.source_tree import Module, own_modules

MODULES = own_modules()

# Names that say nothing about what is inside.
EMPTY_NAMES = {"helper", "helpers", "util", "utils", "utility", "utilities", "manager", "managers", "common", "base"}
# Four hundred lines are the aim; beyond five hundred a module holds two ideas.
MOST_LINES = 500


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_a_module_opens_by_saying_what_it_is_responsible_for(module: Module) -> None:
    tree = ast.parse(module.path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{module.path} has no docstring"


def test_module_names_say_what_is_inside() -> None:
    empty = [module.name for module in MODULES if EMPTY_NAMES.intersection(module.name.replace(".", "_").split("_"))]
    assert empty == []


def test_no_module_grows_beyond_one_idea() -> None:
    sizes = {module.name: len(module.path.read_text(encoding="utf-8").splitlines()) for module in MODULES}
    assert {name: lines for name, lines in sizes.items() if lines > MOST_LINES} == {}
