"""The only SQL of Member Center: its tables, the statements on them, and the revisions that made them.

Every function works on the transaction that its caller opened, and decides nothing. windows.py is the one part that is
not the database: the counters of the limiter, in Valkey or Redis.
"""

from sqlalchemy.engine import Connection as Connection
