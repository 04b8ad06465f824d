"""What the gateway reads and writes of HTTP itself: parameters, Basic, Accept, routes and errors."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import parse_qsl, quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.forms import MAX_PARAMETERS, media_type, parse_basic, parse_multipart, parse_parameters
from gateway.pages.negotiation import preferred_language, prefers_html
from gateway.problems import oauth_answer, problem_answer
from gateway.routes import RouteTable
from servicekit.errors import FieldViolation, MessmailError, Reason, reason_status

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
REASONS = [reason for reason in Reason.values() if reason]


@given(st.dictionaries(TEXT, TEXT, max_size=5))
def test_parameters_are_read_as_browsers_write_them(parameters: dict[str, str]) -> None:
    encoded = urlencode(parameters)
    assert parse_parameters(encoded.encode(), "body") == parameters


@given(st.binary(max_size=60))
def test_any_parameters_are_read_as_the_library_reads_them_or_refused(encoded: bytes) -> None:
    try:
        read = parse_parameters(encoded, "query")
    except MessmailError as error:
        assert error.status.http == 400
    else:
        expected = parse_qsl(encoded.decode(), keep_blank_values=True, separator="&", errors="strict")
        assert list(read.items()) == expected


def test_parameters_have_a_bound() -> None:
    assert len(parse_parameters("&".join(f"a{n}=" for n in range(MAX_PARAMETERS)).encode(), "query")) == MAX_PARAMETERS
    with pytest.raises(MessmailError):
        parse_parameters("&".join(f"a{n}=" for n in range(MAX_PARAMETERS + 1)).encode(), "query")


@given(TEXT.filter(lambda text: ":" not in text), TEXT, st.sampled_from([quote, quote_plus]))
def test_basic_credentials_are_percent_decoded(client_id: str, secret: str, encode: object) -> None:
    pair = f"{encode(client_id)}:{encode(secret)}".encode()  # type: ignore[operator]
    credentials = parse_basic("bAsIc " + base64.b64encode(pair).decode())
    assert (credentials.client_id, credentials.client_secret) == (client_id, secret)


@given(TEXT)
def test_broken_basic_credentials_are_a_refusal_of_the_client(rest: str) -> None:
    try:
        parse_basic(f"Basic {rest}")
    except MessmailError as error:
        assert error.reason == Reason.ERROR_REASON_CLIENT_AUTHENTICATION_FAILED


@given(st.binary(max_size=200), st.text(st.characters(max_codepoint=255), max_size=30))
def test_no_multipart_body_breaks_the_reader(body: bytes, boundary: str) -> None:
    boundary = boundary.replace("\r", "").replace("\n", "")
    try:
        parse_multipart(body, f"multipart/form-data; boundary={boundary}")
    except MessmailError as error:
        assert error.status.http == 400


@pytest.mark.parametrize(
    ("content_type", "accepted"),
    [
        ("application/json", True),
        ("APPLICATION/JSON ; charset=UTF-8", True),
        ('application/json; charset="utf-8"', True),
        ("application/json; charset=utf-16", False),
        ("application/json, text/plain", False),
        ("application/problem+json", False),
        ("json", False),
        ("", False),
    ],
)
def test_a_content_type_is_accepted_by_its_name_and_only_in_utf8(content_type: str, accepted: bool) -> None:
    if accepted:
        assert media_type(content_type, ("application/json",)) == "application/json"
    else:
        with pytest.raises(MessmailError):
            media_type(content_type, ("application/json",))


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("", False),
        ("*/*", False),
        ("text/html", True),
        ("text/*", True),
        ("application/json", False),
        ("text/html;q=0.5, application/json", False),
        ("text/html, */*;q=0.8", True),
        ("text/html;q=0.8, */*;q=0.9", False),
        ("TEXT/HTML ; Q=0.9 , application/json;q=0.2", True),
        ("text/html;q=nonsense", False),
        ("text/html;q=nan", False),
        (",,;;,", False),
    ],
)
def test_only_who_ranks_html_first_gets_a_page(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html


@pytest.mark.parametrize(
    ("accept_language", "language"),
    [
        ("", "en"),
        ("zh-TW", "zh-TW"),
        ("zh", "zh-TW"),
        ("ZH-hant-hk;q=0.3, de", "zh-TW"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("zh;q=0.2,en;q=0.9", "en"),
        ("zh;q=0", "en"),
        ("de,fr", "en"),
        (";;=", "en"),
    ],
)
def test_the_language_of_a_page_follows_the_browser(accept_language: str, language: str) -> None:
    assert preferred_language(accept_language) == language


@given(st.text(max_size=60))
def test_no_header_breaks_the_negotiation(header: str) -> None:
    prefers_html(header)
    preferred_language(header)


@pytest.fixture
def table() -> RouteTable[str]:
    routes: RouteTable[str] = RouteTable()
    routes.add("GET", "/jobs", "list", safe=True)
    routes.add("POST", "/jobs", "create", safe=False)
    routes.add("GET", "/jobs/{id}", "get", safe=False)
    routes.add("GET", "/jobs/special", "special", safe=True)
    return routes


def test_a_fixed_path_goes_before_a_template(table: RouteTable[str]) -> None:
    assert table.find("GET", "/jobs/special") == ("special", {})
    assert table.find("GET", "/jobs/7") == ("get", {"id": "7"})


def test_head_is_there_only_where_get_is_safe(table: RouteTable[str]) -> None:
    assert table.find("HEAD", "/jobs")[0] == "list"
    with pytest.raises(MessmailError) as refused:
        table.find("HEAD", "/jobs/7")
    assert refused.value.metadata == {"allow": "GET, OPTIONS"}


@pytest.mark.parametrize("path", ["/jobs/", "/jobs/7/8", "/jobs//", "//jobs", "/Jobs", "/jobs/7\n", ""])
def test_paths_are_matched_whole(table: RouteTable[str], path: str) -> None:
    if path == "/jobs/7\n":
        assert table.find("GET", path)[1] == {"id": "7\n"}
        return
    with pytest.raises(MessmailError) as refused:
        table.find("GET", path)
    assert refused.value.reason == Reason.ERROR_REASON_ROUTE_NOT_FOUND


def test_a_place_is_taken_once(table: RouteTable[str]) -> None:
    with pytest.raises(ValueError, match="twice"):
        table.add("GET", "/jobs/{id}", "again", safe=True)


@pytest.mark.parametrize("reason", REASONS, ids=Reason.Name)
def test_every_reason_is_a_problem_with_its_status(reason: Reason.ValueType) -> None:
    error = MessmailError(reason, "what is wrong", violations=[FieldViolation("a", "b")], retry_after=0.2, status="x")
    answer = problem_answer(error, "request-id", "http://x/docs")
    problem = json.loads(answer.body)
    assert (answer.status, problem["status"]) == (reason_status(reason).http,) * 2
    assert (problem["violations"], problem["metadata"]) == ([{"field": "a", "description": "b"}], {"status": "x"})
    headers = dict(answer.headers)
    assert headers["retry-after"] == "1"
    assert ("www-authenticate" in headers) == (answer.status in (401, 403))


@given(st.sampled_from(REASONS), st.text(max_size=40))
def test_an_oauth_error_keeps_to_the_characters_of_its_rfc(reason: Reason.ValueType, message: str) -> None:
    body = json.loads(oauth_answer(MessmailError(reason, message)).body)
    assert body.keys() == {"error", "error_description"}
    assert re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]*", body["error_description"])
