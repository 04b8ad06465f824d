"""The reference that developers read at /docs: the OpenAPI document as one plain page, without scripts.

It shows what the document says and adds nothing but a curl command for each call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode

from minijinja import Environment, escape, safe

from gateway.exchange import Answer
from gateway.pages import HTML, PAGE_HEADERS, read_asset
from servicekit.errors import ReasonStatus

REFERENCE_STYLESHEET = "/assets/reference.css"
_CODE = re.compile(r"`([^`]*)`")
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Row:
    """One field, as the page shows it."""

    name: str
    type: str
    required: bool
    description: str


def reference_page(document: dict[str, Any], reasons: list[tuple[ReasonStatus, str]]) -> Answer:
    """Renders the page."""
    environment = Environment(loader=read_asset, undefined_behavior="strict")
    environment.add_filter("marked", _marked)
    html = environment.render_template(
        "reference.html",
        info=document["info"],
        stylesheet=REFERENCE_STYLESHEET,
        services=[
            {**tag, "operations": [operation for operation in _operations(document) if operation["tag"] == tag["name"]]}
            for tag in document["tags"]
        ],
        reasons=[
            {"name": status.name, "http": status.http, "title": status.title, "text": text} for status, text in reasons
        ],
    )
    return Answer(200, html.encode(), HTML, (("cache-control", "no-cache"), *PAGE_HEADERS))


def _marked(text: str) -> str:
    return safe(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            media = operation.get("requestBody", {}).get("content", {})
            success_status, success = next(iter(operation["responses"].items()))
            yield {
                "id": operation["operationId"],
                "tag": operation["tags"][0],
                "method": method.upper(),
                "path": path,
                "summary": operation["summary"],
                "description": operation["description"],
                "scopes": sorted({scope for way in operation["security"] for scope in way.get("accessToken", [])}),
                "public": {} in operation["security"],
                "parameters": [asdict(row) for row in _parameter_rows(operation.get("parameters", []), schemas)],
                "media_types": list(media),
                "body": [asdict(row) for row in _rows(next(iter(media.values()))["schema"], schemas)] if media else [],
                "curl": _curl(document["servers"][0]["url"], method.upper(), path, operation),
                "success_status": success_status,
                "success": [asdict(row) for row in _rows(success["content"]["application/json"]["schema"], schemas)],
                "errors": [
                    {"status": status, "lines": answer["description"].split("\n\n")}
                    for status, answer in operation["responses"].items()
                    if status != success_status
                ],
            }


def _parameter_rows(parameters: list[dict[str, Any]], schemas: dict[str, Any]) -> Iterator[Row]:
    for parameter in parameters:
        type_text = f"{_type(parameter['schema'], schemas)}, in the {parameter['in']}"
        yield Row(parameter["name"], type_text, parameter["required"], parameter["description"])


def _rows(schema: dict[str, Any], schemas: dict[str, Any], prefix: str = "", depth: int = 0) -> Iterator[Row]:
    schema = _resolved(schema, schemas)
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        yield Row(f"{prefix}{name}", _type(field, schemas), name in required, field.get("description", ""))
        inner = _resolved(field.get("items", field), schemas)
        if depth < 2 and "properties" in inner:
            dots = "[]." if "items" in field else "."
            yield from _rows(inner, schemas, f"{prefix}{name}{dots}", depth + 1)


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    for inner in schema.get("anyOf", []):
        if "$ref" in inner:
            schema = inner
    if "$ref" in schema:
        resolved: dict[str, Any] = schemas[schema["$ref"].rpartition("/")[2]]
        return resolved
    return schema


def _type(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join("null" if word is None else word for word in schema["enum"])
    if "items" in schema:
        return f"array of {_type(schema['items'], schemas)}"
    names = _resolved(schema, schemas).get("type", "object")
    kind = " or ".join(names) if isinstance(names, list) else str(names)
    if "anyOf" in schema:
        kind += " or null"
    return f"{kind} ({schema['format']})" if "format" in schema else kind


def _curl(base: str, method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = operation.get("parameters", [])
    for parameter in parameters:
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
    media = operation.get("requestBody", {}).get("content", {})
    asked = (
        {}
        if media
        else {each["name"]: each["example"] for each in parameters if each["required"] and each["in"] == "query"}
    )
    query = f"?{urlencode(asked)}" if asked else ""
    lines = [f"curl -s {'' if method == 'GET' else f'-X {method} '}'{base}{path}{query}'"]
    if {} not in operation["security"]:
        lines.append("-H 'Authorization: Bearer <ACCESS_TOKEN>'")
    if media:
        media_type, body = next(iter(media.items()))
        example = body["example"]
        lines.append(f"-H 'Content-Type: {media_type}'")
        text = urlencode(example) if media_type == _FORM else json.dumps(example, ensure_ascii=False)
        lines.append(f"-d '{text}'")
    return " \\\n  ".join(lines)
