"""What the claims are shown on: a whole stack, and engines with a Member Center in this process."""

import pytest

from tests.member_center_fixtures import clock as clock
from tests.member_center_fixtures import engines as engines
from tests.member_center_fixtures import member_center as member_center
from tests.stack import Stack
from tests.stack import stack as stack


@pytest.fixture(scope="module")
def unlimited(stack: Stack) -> Stack:
    """The stack, for whoever calls, subscribes and fails to log in more often than anybody may."""
    many = "1000000"
    stack.messmail(
        *("limits", "set", "--anonymous-calls-per-ip-per-minute", many, "--failed-logins-per-ip-per-minute", many),
        *("--failed-logins-per-client-and-ip-per-minute", many, "--calls-per-client-per-minute", many),
        *("--subscribes-per-list-per-minute", many, "--subscribes-per-address-per-hour", many),
    )
    return stack
