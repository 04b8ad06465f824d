"""Gives Schemathesis what it cannot guess, so that its requests get past the first look-up: ids, tokens, credentials.

Half of the valid requests have them, so that the answers to unknown ones are seen, too. MESSMAIL_KNOWN holds the values
by field name, and MESSMAIL_SEED the seed.
"""

import json
import os
import random
from typing import Any

import schemathesis

KNOWN: dict[str, list[str]] = json.loads(os.environ["MESSMAIL_KNOWN"])
_chance = random.Random(int(os.environ["MESSMAIL_SEED"]))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """Puts known values into half of the valid requests."""
    if case.meta is None or not case.meta.generation.mode.is_positive or _chance.random() < 0.5:
        return
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict):
            for name in KNOWN.keys() & part.keys():
                part[name] = _chance.choice(KNOWN[name])
