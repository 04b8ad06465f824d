"""The only SQL of Send Engine: its tables, the statements on them, and the revisions that made them.

Every function works on the transaction that its caller opened, and decides nothing.
"""

from sqlalchemy.engine import Connection

__all__ = ["Connection"]
