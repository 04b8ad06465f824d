"""What the claims are shown on: a whole stack, and engines with a Member Center in this process."""

from tests.member_center_fixtures import clock as clock
from tests.member_center_fixtures import engines as engines
from tests.member_center_fixtures import member_center as member_center
from tests.stack import stack as stack
