"""The gateway has no per-RPC code, and what it says of itself is valid and whole."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import message_factory
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

import gateway
from buf.validate import validate_pb2
from gateway.json_reader import fill
from gateway.openapi import openapi_document, reasons
from gateway.pages.texts import PROBLEMS, TEXTS
from gateway.routes import Route, read_routes
from gateway.wiring import SERVICES
from messmail.options.v1 import options_pb2
from servicekit.errors import FieldViolation

ROUTES = [route for service in SERVICES.values() for route in read_routes(service)]
DOCUMENT = openapi_document(ROUTES, "https://news.example")
OPERATIONS = {operation["operationId"]: operation for path in DOCUMENT["paths"].values() for operation in path.values()}
SOURCES = sorted(Path(gateway.__path__[0]).rglob("*.py"))
RPC_NAMES = {method.name for service in SERVICES.values() for method in service.methods}


def named(route: Route) -> str:
    return f"{route.http_method} {route.template}"


def test_the_openapi_document_is_valid() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_every_public_rpc_is_described_or_internal() -> None:
    internal = {
        method.name
        for service in SERVICES.values()
        for method in service.methods
        if method.GetOptions().Extensions[options_pb2.http_face].internal
    }
    assert OPERATIONS.keys() == RPC_NAMES - internal


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_everything_in_the_document_is_explained(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"] and operation["description"]
    assert all(parameter["description"] for parameter in operation.get("parameters", []))
    assert all(answer["description"] for answer in operation["responses"].values())
    assert {"400", "429", "500", "503", "504"} <= operation["responses"].keys()


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["schemas"]))
def test_every_field_is_explained(name: str) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    assert schema["description"]
    for field, described in schema["properties"].items():
        assert described.get("description") or name in ("Problem", "OAuthError"), field


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_the_examples_are_accepted_by_their_schemas(name: str) -> None:
    operation = OPERATIONS[name]
    examples: list[tuple[Any, Any]] = [
        (media["schema"], media["example"]) for media in operation.get("requestBody", {}).get("content", {}).values()
    ]
    examples += [(each["schema"], each["example"]) for each in operation.get("parameters", []) if "example" in each]
    for schema, example in examples:
        whole = {**schema, "components": DOCUMENT["components"]}
        assert list(OAS31Validator(whole).iter_errors(example)) == []


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_a_field_that_may_be_left_out_may_be_null(name: str) -> None:
    media = OPERATIONS[name].get("requestBody", {}).get("content", {}).get("application/json")
    if media is None:
        return
    schema, example = media["schema"], media["example"]
    nulls = dict.fromkeys(schema["properties"].keys() - set(schema["required"]))
    assert list(OAS31Validator({**schema, "components": DOCUMENT["components"]}).iter_errors(nulls | example)) == []
    (method,) = (each for service in SERVICES.values() for each in service.methods if each.name == name)
    plain, full = (message_factory.GetMessageClass(method.input_type)() for _ in range(2))
    violations = list[FieldViolation]()
    fill(plain, example, violations)
    fill(full, nulls | example, violations)
    assert (full, violations) == (plain, [])


@pytest.mark.parametrize("route", ROUTES, ids=named)
def test_a_text_that_is_left_out_when_it_is_empty_may_be_empty(route: Route) -> None:
    operation = OPERATIONS.get(route.rpc.name, {})
    parameters = [each for each in operation.get("parameters", []) if each["in"] != "path"]
    schemas = {each["name"].lower().replace("-", "_"): each["schema"] for each in parameters}
    for media in operation.get("requestBody", {}).get("content", {}).values():
        schemas |= media["schema"]["properties"]
    for field in route.rpc.input_type.fields:
        if field.type == field.TYPE_STRING and field.name in schemas:
            rules = field.GetOptions().Extensions[validate_pb2.field]
            if rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE:
                assert list(OAS31Validator(schemas[field.name]).iter_errors("")) == [], field.full_name


def test_every_reason_is_explained() -> None:
    assert all(status.title and text for status, text in reasons())


@pytest.mark.parametrize("route", ROUTES, ids=named)
def test_only_what_has_no_side_effects_answers_head(route: Route) -> None:
    # Following the link of an API answer confirms, so it must not be marked as free of effects.
    assert not (route.safe and route.http_method != "GET")
    assert route.rpc.name != "FollowConfirmLink" or not route.safe


@pytest.mark.parametrize("route", [route for route in ROUTES if route.face.page], ids=named)
def test_every_page_of_the_contract_has_a_template_and_a_no_store(route: Route) -> None:
    assert Path(gateway.__path__[0], "pages", f"{route.face.page}.html").is_file()
    assert route.face.no_store


def test_the_pages_say_the_same_in_every_language() -> None:
    keys = {language: set(texts) for language, texts in TEXTS.items()}
    assert len(set(map(frozenset, keys.values()))) == 1
    assert len(set(map(frozenset, PROBLEMS.values()))) == 1
    assert TEXTS.keys() == PROBLEMS.keys()


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: f"{source.parent.name}.{source.stem}")
def test_no_code_knows_a_path_or_an_rpc(source: Path) -> None:
    """Paths of the contract and names of RPCs stand in the contract; the gateway's own token is the one exception."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    paths = {route.template for route in ROUTES}
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr == "IssueToken" or node.attr not in RPC_NAMES, node.attr
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            assert not any(path in node.value for path in paths), node.value
            # The words on the pages may happen to be the name of an RPC.
            assert source.name == "texts.py" or node.value not in RPC_NAMES, node.value
        if isinstance(node, ast.Compare):
            compared = [node.left, *node.comparators]
            assert not any(isinstance(side, ast.Attribute) and side.attr == "path" for side in compared)
