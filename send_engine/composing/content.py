"""What a mail is composed from, and the one error that says what is wrong with it.

These are plain records; checking is in `headers` and `templates`, assembling in `job_mail` and `confirmation_mail`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class ContentError(Exception):
    """Something that cannot be put into a mail: which field, why, and the line of a template where one is known.

    The message never repeats the value.
    """

    def __init__(self, field: str, message: str, line: int | None = None) -> None:
        super().__init__(f"{field}: {message}" if line is None else f"{field}, line {line}: {message}")
        self.field = field
        self.message = message
        self.line = line


@dataclass(frozen=True, slots=True)
class ListProfile:
    """How a list presents itself in its mails. `language` is the list's default, as a BCP 47 tag."""

    list_id: str
    list_name: str
    from_name: str
    from_address: str
    reply_to: str | None
    envelope_sender: str
    language: str


@dataclass(frozen=True, slots=True)
class Content:
    """What the tenant wrote: sent as typed, or rendered for each recipient when `template` is set."""

    subject: str
    body_html: str | None
    body_text: str | None
    template: bool


class Recipient(NamedTuple):
    """One person who has consented, with links minted for this mail. A tuple, since there is one for every mail.

    preferences_url is empty where the mail does not show it.
    """

    address: str
    preferences: Mapping[str, Any]
    one_click_url: str
    preferences_url: str
