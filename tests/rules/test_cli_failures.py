"""How the command line tells failures: one line, with the reason and what to do next, and never a trace or a secret."""

import pydantic
import pytest
import sqlalchemy.exc
import structlog

from messmail.errors.v1 import errors_pb2
from messmail_cli.failures import CommandFailed, describe
from servicekit.errors import MessmailError, Reason


@pytest.mark.parametrize("reason", [value for value in Reason.values() if value])
def test_every_reason_is_told_in_one_line(reason: errors_pb2.ErrorReason.ValueType) -> None:
    line = describe(MessmailError(reason, "what is\nwrong"))
    assert "\n" not in line
    assert Reason.Name(reason).removeprefix("ERROR_REASON_") in line
    assert "what is wrong." in line


def test_a_refusal_shows_its_request_id_and_what_to_do_next() -> None:
    with structlog.contextvars.bound_contextvars(request_id="0123-abc"):
        line = describe(MessmailError(Reason.ERROR_REASON_LIST_NOT_FOUND, "there is no such list"))
    assert line == (
        "messmail: LIST_NOT_FOUND: there is no such list (request 0123-abc). "
        "`messmail lists list --tenant TENANT` shows the lists of a tenant."
    )


def test_a_failure_of_ours_says_what_and_what_next() -> None:
    assert describe(CommandFailed("No stack", "Start one.")) == "messmail: No stack. Start one."


def test_a_wrong_setting_is_named_without_its_value() -> None:
    class Settings(pydantic.BaseModel):
        broker_url: int

    with pytest.raises(pydantic.ValidationError) as wrong:
        Settings.model_validate({"broker_url": "redis://:geheim@localhost"})
    line = describe(wrong.value)
    assert "BROKER_URL" in line
    assert "geheim" not in line


def test_a_database_that_refuses_is_told_without_what_was_asked_of_it() -> None:
    line = describe(sqlalchemy.exc.OperationalError("SELECT geheim", {"password": "geheim"}, Exception("geheim")))
    assert line.startswith("messmail: The database refused (OperationalError). ")
    assert "geheim" not in line


def test_an_unforeseen_error_tells_no_details() -> None:
    assert "geheim" not in describe(RuntimeError("password geheim"))
