"""The real stack, and a Member Center on engines, for the claims that need one."""

from tests.member_center_fixtures import clock as clock
from tests.member_center_fixtures import engines as engines
from tests.member_center_fixtures import member_center as member_center
from tests.stack import stack as stack
