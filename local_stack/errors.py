"""The one error of the local stack: something a person has to read, with what to do about it.

It is not for programming mistakes; those keep their own exception and trace.
"""


class StackError(Exception):
    """Says in plain words why the local stack cannot go on."""
