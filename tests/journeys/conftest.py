"""The real stack, for every journey."""

from tests.stack import stack as stack
