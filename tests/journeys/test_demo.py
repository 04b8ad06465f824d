"""`messmail demo --once`: the walk ends well only when really everybody of the audience was mailed, and nobody else."""

import re
from collections import Counter

import pytest

from tests.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

# Nothing that the walk may show is this long without a space, dot or slash; every secret and token is.
SECRET = re.compile(r"[A-Za-z0-9_-]{40,}")


def test_the_walk_mails_exactly_its_thousand_people_again_and_again(stack: Stack) -> None:
    for _ in range(2):
        earlier = {mail.id for mail in stack.mailbox.mails()}
        ended = stack.run_command("demo", "--once", seconds=180)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "1,000 mails arrived" in ended.stdout
        assert SECRET.search(ended.stdout) is None
        arrived = [mail for mail in stack.mailbox.mails() if mail.id not in earlier]
        weekly = Counter(mail.to for mail in arrived if mail.subject.startswith("Weekly Update"))
        assert len(weekly) == weekly.total() == 1000
        assert len(arrived) == 1001, "the thousand, and one confirmation mail"
