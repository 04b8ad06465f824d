"""Mails for a server without 8BITMIME: what was 8bit becomes quoted-printable (RFC 6152 section 3).

Hardly any server lacks it, so mails are composed for those that have it, and put into another form only where needed.
"""

from __future__ import annotations

import email
import quopri
from email.message import Message
from email.policy import compat32

from send_engine.esp.port import ComposedMail

# As the parser read it: no header is folded anew, no line end changed.
_AS_IT_IS = compat32.clone(linesep="\r\n", max_line_length=None)


def seven_bit(mail: ComposedMail) -> ComposedMail:
    """Returns the same mail with every 8bit part in quoted-printable.

    Headers stay as they are: those of a mail that needs SMTPUTF8 have no such form.
    """
    content = mail.data.removeprefix(b".") if mail.data.startswith(b"..") else mail.data
    message = email.message_from_bytes(content.replace(b"\r\n..", b"\r\n."), policy=_AS_IT_IS)
    for part in message.walk():
        if part["Content-Transfer-Encoding"] == "8bit":
            _quote(part)
    plain = message.as_bytes(policy=_AS_IT_IS)
    stuffed = plain.replace(b"\r\n.", b"\r\n..")
    return mail._replace(data=b"." + stuffed if stuffed.startswith(b".") else stuffed, eight_bit=False)


def _quote(part: Message) -> None:
    lines = part.get_payload(decode=True)
    assert isinstance(lines, bytes)
    part.replace_header("Content-Transfer-Encoding", "quoted-printable")
    part.set_payload(quopri.encodestring(lines).decode("ascii"))
