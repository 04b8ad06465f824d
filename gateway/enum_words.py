"""How enum values are written in JSON: in lower case, without the prefix that every value of an enum shares."""

import re
from functools import cache

from google.protobuf.descriptor import EnumDescriptor

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@cache
def enum_words(enum: EnumDescriptor) -> dict[int, str]:
    """Returns the word of each number: SEND_JOB_STATUS_SENDING of SendJobStatus is "sending"."""
    prefix = _WORD_START.sub("_", enum.name).upper() + "_"
    return {value.number: value.name.removeprefix(prefix).lower() for value in enum.values}


@cache
def enum_numbers(enum: EnumDescriptor) -> dict[str, int]:
    """Returns the number of each word."""
    return {word: number for number, word in enum_words(enum).items()}
