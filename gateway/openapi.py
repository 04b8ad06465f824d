"""The OpenAPI 3.1 document, made of the same descriptors that the gateway routes by, and their comments."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from gateway.examples import example_object, example_value
from gateway.forms import JSON
from gateway.json_reader import can_be_text
from gateway.routes import Route
from gateway.schemas import Schema, Schemas, comment_of, is_required
from gateway.transcode import accepted_types
from messmail.errors.v1 import errors_pb2
from servicekit.errors import Reason, ReasonStatus, reason_status

_REASON_NAME = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b")
_BEARER, _BASIC = "accessToken", "clientCredentials"
# Whatever is asked for, these can be the answer.
_ALWAYS = (
    Reason.ERROR_REASON_RATE_LIMITED,
    Reason.ERROR_REASON_INTERNAL,
    Reason.ERROR_REASON_UNAVAILABLE,
    Reason.ERROR_REASON_DEADLINE_EXCEEDED,
)
_DESCRIPTION = (
    "Newsletters for many tenants. Every JSON member is always there in an answer, null where there is nothing; times "
    "are RFC 3339 in UTC. Errors are application/problem+json (RFC 9457), with a stable `reason`; under /oauth/ they "
    "are those of RFC 6749."
)


def openapi_document(routes: Iterable[Route], public_base_url: str) -> dict[str, Any]:
    """Describes the routes."""
    schemas = Schemas()
    paths: dict[str, dict[str, Any]] = {}
    services = {}
    for route in routes:
        paths.setdefault(route.template, {})[route.http_method.lower()] = _operation(route, schemas)
        service = route.rpc.containing_service
        services[service.name] = comment_of(service.full_name)
    components = {
        "schemas": {**schemas.components, "Problem": _problem_schema(), "OAuthError": _oauth_error_schema()},
        "securitySchemes": {
            _BEARER: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            _BASIC: {"type": "http", "scheme": "basic", "description": "The client's id and secret."},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Messmail", "version": metadata.version("messmail"), "description": _DESCRIPTION},
        "servers": [{"url": public_base_url}],
        "tags": [{"name": name, "description": text} for name, text in services.items()],
        "paths": paths,
        "components": components,
    }


def reasons() -> list[tuple[ReasonStatus, str]]:
    """Returns every reason with its explanation, as the contract lists them."""
    enum = errors_pb2.ErrorReason.DESCRIPTOR
    return [
        (reason_status(Reason.Value(value.name)), comment_of(f"{enum.full_name}.{value.name}"))
        for value in enum.values
        if value.number
    ]


def _operation(route: Route, schemas: Schemas) -> dict[str, Any]:
    comment = comment_of(route.rpc.full_name)
    operation: dict[str, Any] = {
        "operationId": route.rpc.name,
        "summary": comment.split(". ")[0].rstrip("."),
        "description": comment,
        "tags": [route.rpc.containing_service.name],
        "security": _security(route),
        "responses": {**_success(route, schemas), **_errors(route)},
    }
    parameters = _parameters(route, schemas)
    if parameters:
        operation["parameters"] = parameters
    if route.has_body:
        operation["requestBody"] = _body(route, schemas)
    return operation


def _parameters(route: Route, schemas: Schemas) -> list[dict[str, Any]]:
    parameters = []
    for field in route.rpc.input_type.fields:
        header = route.header_fields.get(field.name)
        in_path = field.name in route.path_fields
        if not (in_path or header) and (not can_be_text(field) or (route.has_body and not route.face.query_with_body)):
            continue
        schema = schemas.field(field, is_request=True)
        parameter = {
            "name": header or field.name,
            "in": "path" if in_path else "header" if header else "query",
            "required": in_path or (is_required(field) and not route.has_body),
            "description": schema.pop("description", ""),
            "schema": schema,
        }
        example = example_value(field.name)
        parameters.append(parameter if example is None else {**parameter, "example": example})
    return parameters


def _body(route: Route, schemas: Schemas) -> dict[str, Any]:
    message, face = route.rpc.input_type, route.face
    # What the query or HTTP Basic may carry instead is not missing in the body.
    elsewhere = face.query_with_body
    content: dict[str, Any] = {}
    for media_type in accepted_types(route):
        if media_type == JSON:
            schema = schemas.request(message, (*route.path_fields, *route.header_fields), all_optional=elsewhere)
        else:
            ignored = tuple(face.ignored_form_fields)
            schema = schemas.form(message, ignored, is_open=face.oauth, all_optional=elsewhere)
            if face.oauth:
                schema["required"] = [name for name in schema["required"] if not name.startswith("client_")]
        content[media_type] = {"schema": schema, "example": example_object(schema)}
    required = any(media["schema"]["required"] for media in content.values())
    return {"required": required, "content": content}


def _success(route: Route, schemas: Schemas) -> dict[str, Any]:
    field = route.response_body
    message = route.rpc.output_type.fields_by_name[field].message_type if field else route.rpc.output_type
    assert message is not None
    content: dict[str, Any] = {JSON: {"schema": schemas.answer(message, omits_absent=route.face.omit_absent)}}
    if route.face.page:
        content["text/html"] = {"schema": {"type": "string", "description": "The same as a page, for browsers."}}
    answer: dict[str, Any] = {"description": comment_of(route.rpc.output_type.full_name), "content": content}
    if not route.face.created_location:
        return {"200": answer}
    where = {"description": "The path of what was made.", "schema": {"type": "string"}}
    return {"201": {**answer, "headers": {"Location": where}}}


def _errors(route: Route) -> dict[str, Any]:
    schema: Schema = {"$ref": f"#/components/schemas/{'OAuthError' if route.face.oauth else 'Problem'}"}
    media_type = JSON if route.face.oauth else "application/problem+json"
    by_status: dict[int, list[ReasonStatus]] = {}
    for reason in sorted(_possible_reasons(route)):
        by_status.setdefault(reason_status(reason).http, []).append(reason_status(reason))
    answers: dict[str, Any] = {}
    for status, found in sorted(by_status.items()):
        lines = [f"`{reason.oauth_error if route.face.oauth else reason.name}`: {reason.title}" for reason in found]
        answers[str(status)] = {"description": "\n\n".join(lines), "content": {media_type: {"schema": schema}}}
        if route.face.page:
            answers[str(status)]["content"]["text/html"] = {"schema": {"type": "string"}}
    return answers


def _possible_reasons(route: Route) -> set[errors_pb2.ErrorReason.ValueType]:
    named = _REASON_NAME.findall(comment_of(route.rpc.full_name))
    known = dict(Reason.items())
    found = {known[f"ERROR_REASON_{name}"] for name in named if f"ERROR_REASON_{name}" in known}
    found |= {*_ALWAYS, Reason.ERROR_REASON_INVALID_FIELD, Reason.ERROR_REASON_MALFORMED_BODY}
    if route.has_body:
        found |= {
            Reason.ERROR_REASON_BODY_TOO_LARGE,
            Reason.ERROR_REASON_REQUEST_TIMEOUT,
            Reason.ERROR_REASON_UNSUPPORTED_MEDIA_TYPE,
            Reason.ERROR_REASON_UNPROCESSABLE,
        }
    if route.face.page:
        # What has a page is opened by a link.
        found |= {
            Reason.ERROR_REASON_LINK_INVALID,
            Reason.ERROR_REASON_LINK_SUPERSEDED,
            Reason.ERROR_REASON_LINK_EXPIRED,
        }
    if route.face.oauth:
        oauth = {
            reason for reason in Reason.values() if reason and reason_status(reason).oauth_error != "invalid_request"
        }
        return found | oauth
    # A token that is sent is verified, even where none is needed.
    found |= {
        Reason.ERROR_REASON_TOKEN_INVALID,
        Reason.ERROR_REASON_TOKEN_EXPIRED,
        Reason.ERROR_REASON_SCOPE_MISSING,
    }
    if not route.access.public:
        found.add(Reason.ERROR_REASON_TOKEN_MISSING)
    if "tenant_id" in route.rpc.input_type.fields_by_name:
        found.add(Reason.ERROR_REASON_TENANT_MISMATCH)
    return found


def _security(route: Route) -> list[dict[str, list[str]]]:
    access = route.access
    if route.face.oauth:
        return [{}, {_BASIC: []}]
    scopes = [scope for scope in (access.tenant_scope, access.list_scope, access.internal_scope) if scope]
    ways = [{_BEARER: [scope]} for scope in scopes] or [{_BEARER: []}]
    return [{}, *ways] if access.public else ways


def _problem_schema() -> Schema:
    violation = {
        "type": "object",
        "required": ["field", "description"],
        "properties": {
            "field": {"type": "string", "description": "The path of the field in the request."},
            "description": {"type": "string", "description": "What is wrong, and what would be right."},
        },
    }
    return {
        "type": "object",
        "description": "What went wrong (RFC 9457).",
        "required": ["type", "title", "status", "detail", "reason", "request_id"],
        "properties": {
            "type": {"type": "string", "format": "uri", "description": "Where the reason is explained."},
            "title": {"type": "string", "description": "What the reason means, the same each time."},
            "status": {"type": "integer", "description": "The status code of HTTP."},
            "detail": {"type": "string", "description": "What is wrong this time."},
            "reason": {
                "type": "string",
                "description": "The reason, for programs to branch on.",
                "enum": [status.name for status, _ in reasons()],
            },
            "request_id": {"type": "string", "description": "Finds the request in the log."},
            "violations": {"type": "array", "items": violation, "description": "Every field that is wrong."},
            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }


def _oauth_error_schema() -> Schema:
    return {
        "type": "object",
        "description": "What went wrong (RFC 6749 section 5.2).",
        "required": ["error"],
        "properties": {
            "error": {"type": "string", "enum": sorted({status.oauth_error for status, _ in reasons()})},
            "error_description": {"type": "string"},
        },
    }
