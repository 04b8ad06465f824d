"""Engines and a Member Center, for every test of the RPCs that asks for one."""

from tests.member_center_fixtures import clock as clock
from tests.member_center_fixtures import engines as engines
from tests.member_center_fixtures import member_center as member_center
