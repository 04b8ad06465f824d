"""Composing: from what a tenant wrote and one consenting person to the bytes of one mail.

Pure: no database, no network, no clock. `job_mail` makes newsletters, `confirmation_mail` the double opt-in mail;
`mail_forms` makes newsletters fast. `headers`, `bodies` and `parts` know the wire, `templates` and `plain_text` the
words, `texts` our own sentences.
"""

from send_engine.composing.confirmation_mail import compose_confirmation
from send_engine.composing.content import Content, ContentError, ListProfile, Recipient
from send_engine.composing.headers import check_header_text
from send_engine.composing.job_mail import JobComposer
from send_engine.composing.template_check import check_template

__all__ = [
    "Content",
    "ContentError",
    "JobComposer",
    "ListProfile",
    "Recipient",
    "check_header_text",
    "check_template",
    "compose_confirmation",
]
