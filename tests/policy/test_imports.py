"""The import rule: who may know whom, told by layer, by package and by library."""

import graphlib
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.policy.source_tree import (
    PRODUCT,
    SERVICES,
    Module,
    imported_names,
    is_within,
    modules_below,
    product_modules,
)

# What each package may import of the others. Everything else it needs of them goes through the contract.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "servicekit": (),
    "member_center": ("servicekit",),
    "send_engine": ("servicekit",),
    "gateway": ("servicekit",),
    "local_stack": ("servicekit",),
    "messmail_cli": (
        "servicekit",
        "local_stack",
        "member_center.wiring",
        "send_engine.wiring",
        "gateway.wiring",
    ),
}

# Higher layers import lower ones; a module may also import its own layer, as long as no cycle comes of it.
RANK = {"records": 0, "storage": 1, "noun": 2, "servicer": 3, "actors": 3, "sweeper": 3, "wiring": 4}

# Nouns that are clients of another service: there the messages of the contract stop, as they do at the servicer.
CLIENTS = ("send_engine.recipients",)

GRPC = ("grpc", "grpc_status", "grpc_health", "grpc_reflection")
MESSAGES = ("messmail", "google.protobuf", "google.rpc", "google.api")


def may_speak_grpc(module: Module) -> bool:
    """grpc belongs to servicers, clients, the gateway and the kit; the command line is a client throughout."""
    return (
        module.package in ("servicekit", "gateway", "messmail_cli")
        or module.layer == "servicer"
        or is_within(module.name, CLIENTS)
    )


def may_hold_messages(module: Module) -> bool:
    """Protobuf messages stop where grpc does; a wiring names the stubs it registers."""
    return may_speak_grpc(module) or module.layer == "wiring"


def may_use_sql(module: Module) -> bool:
    """sqlalchemy belongs to storage and wiring, and to what the kit shares of them: transactions and migrations."""
    in_service = module.package in SERVICES and module.layer in ("storage", "wiring", "records")
    of_the_kit = ("servicekit.database", "servicekit.statements", "servicekit.migrations", "servicekit.audit_store")
    return in_service or is_within(module.name, of_the_kit)


def may_use_dramatiq(module: Module) -> bool:
    """dramatiq belongs to actors and wiring."""
    return module.package in SERVICES and module.layer in ("actors", "wiring")


CONFINED: dict[str, tuple[tuple[str, ...], Callable[[Module], bool]]] = {
    "grpc": (GRPC, may_speak_grpc),
    "protobuf messages": (MESSAGES, may_hold_messages),
    "sqlalchemy": (("sqlalchemy", "alembic"), may_use_sql),
    "dramatiq": (("dramatiq",), may_use_dramatiq),
}


def package_breaches(modules: Iterable[Module]) -> list[str]:
    """Returns the imports of another package, or of what does not ship, that MAY_IMPORT does not allow."""
    breaches = []
    for module in modules:
        others = [name for name in (*PRODUCT, "tests", "tools", "bench") if name != module.package]
        allowed = MAY_IMPORT[module.package]
        breaches += [
            f"{module.name} imports {name}"
            for name in sorted(module.imports)
            if is_within(name, others) and not is_within(name, allowed)
        ]
    return breaches


def layer_breaches(modules: Iterable[Module]) -> list[str]:
    """Returns the imports that climb: to a higher layer, or from one entry point into another."""
    by_name = {module.name: module for module in modules}
    breaches = []
    for module in by_name.values():
        for target in imported_modules(module, by_name):
            climbs = RANK[target.layer] > RANK[module.layer]
            sideways = RANK[target.layer] == RANK[module.layer] and target.layer != module.layer
            if target.package == module.package and (climbs or sideways):
                breaches.append(f"{module.name} ({module.layer}) imports {target.name} ({target.layer})")
    return breaches


def library_breaches(
    modules: Iterable[Module], libraries: tuple[str, ...], allowed: Callable[[Module], bool]
) -> list[str]:
    """Returns the imports of some libraries outside the modules that may use them."""
    return [
        f"{module.name} imports {name}"
        for module in modules
        if not allowed(module)
        for name in sorted(module.imports)
        if is_within(name, libraries)
    ]


def imported_modules(module: Module, by_name: dict[str, Module]) -> list[Module]:
    """Resolves each imported name to the module that holds it; names of other distributions fall away."""
    found = {}
    for name in module.imports:
        while name and name not in by_name:
            name = name.rpartition(".")[0]
        if name and name != module.name:
            found[name] = by_name[name]
    return list(found.values())


def test_packages_know_only_whom_the_house_allows() -> None:
    assert package_breaches(product_modules()) == []


@pytest.mark.parametrize("service", SERVICES)
def test_layers_of_a_service_import_downwards_only(service: str) -> None:
    assert layer_breaches(module for module in product_modules() if module.package == service) == []


@pytest.mark.parametrize("what", CONFINED)
def test_libraries_stay_in_their_rooms(what: str) -> None:
    libraries, allowed = CONFINED[what]
    assert library_breaches(product_modules(), libraries, allowed) == []


def test_no_module_imports_itself_through_others() -> None:
    by_name = {module.name: module for module in product_modules()}
    graph = {name: {target.name for target in imported_modules(module, by_name)} for name, module in by_name.items()}
    # A package's `__init__` naming its own parts is its map, not a dependency of theirs.
    graph = {name: {t for t in targets if not name.startswith(f"{t}.")} for name, targets in graph.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"cycle of imports: {' → '.join(error.args[1])}")


# ---- the rule itself, tried on a house that breaks it


@pytest.fixture
def crooked_house(tmp_path: Path) -> list[Module]:
    """Modules in which every line of the rule is broken once."""
    files = {
        "member_center/links.py": "from . import servicer\nimport sqlalchemy as sa",
        "member_center/servicer.py": "def f():\n    from send_engine.planning import plan",
        "member_center/storage/rows.py": "from member_center.links import seal\nfrom ..wiring import build",
        "send_engine/actors.py": "import send_engine.sweeper\nfrom tests import stack",
        "send_engine/sweeper.py": "from dramatiq import actor",
        "send_engine/planning.py": "from messmail.send_engine.v1 import send_engine_pb2\nimport grpc.aio",
        "gateway/app.py": "from member_center.wiring import serve",
    }
    for name, source in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return modules_below(tmp_path, root=tmp_path)


def test_the_rule_sees_a_package_that_knows_too_much(crooked_house: list[Module]) -> None:
    assert package_breaches(crooked_house) == [
        "gateway.app imports member_center.wiring.serve",
        "member_center.servicer imports send_engine.planning.plan",
        "send_engine.actors imports tests.stack",
    ]


def test_the_rule_sees_an_import_that_climbs(crooked_house: list[Module]) -> None:
    assert sorted(layer_breaches(crooked_house)) == [
        "member_center.links (noun) imports member_center.servicer (servicer)",
        "member_center.storage.rows (storage) imports member_center.links (noun)",
        "send_engine.actors (actors) imports send_engine.sweeper (sweeper)",
    ]


def test_the_rule_sees_a_library_out_of_its_room(crooked_house: list[Module]) -> None:
    breaches = {what: library_breaches(crooked_house, *rule) for what, rule in CONFINED.items()}
    assert breaches == {
        "grpc": ["send_engine.planning imports grpc.aio"],
        "protobuf messages": ["send_engine.planning imports messmail.send_engine.v1.send_engine_pb2"],
        "sqlalchemy": ["member_center.links imports sqlalchemy"],
        "dramatiq": ["send_engine.sweeper imports dramatiq.actor"],
    }


def test_imported_names_resolves_relative_imports() -> None:
    source = textwrap.dedent(
        """
        import a.b as c
        from . import d
        from ..e import f
        """
    )
    assert set(imported_names(source, "top.middle.leaf")) == {"a.b", "top.middle.d", "top.e.f"}
    assert set(imported_names("from . import d", "top.middle", is_package=True)) == {"top.middle.d"}
