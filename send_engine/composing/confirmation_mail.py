"""The double opt-in mail: one link, one list, and nothing a stranger typed.

Whoever fills in a form can have this mail sent to anybody, so it shows no name and no preference, only what the
tenant set for the list and our own words in `texts`.
"""

import html
from datetime import datetime

from send_engine.composing.content import ListProfile
from send_engine.composing.headers import (
    ascii_domain,
    check_address,
    check_delivery_id,
    check_header_text,
    check_link,
    date_header,
    mailbox,
    message_id,
    unstructured,
)
from send_engine.composing.parts import HTML, PLAIN, alternatives, whole_part
from send_engine.composing.texts import MailTexts, pick_texts
from send_engine.esp.port import ComposedMail

_BOUNDARY = b"=_messmail_confirmation"


def compose_confirmation(
    profile: ListProfile, address: str, confirm_url: str, language: str | None, delivery_id: str, date: datetime
) -> ComposedMail:
    """Returns the mail that asks to confirm. Raises ContentError when profile, address or link cannot be in a mail.

    `language` is the reader's wish; one we do not speak gives way to the list's.
    """
    check_header_text("from_name", profile.from_name)
    check_header_text("list_name", profile.list_name)
    check_address("email", address)
    check_link("confirm_url", confirm_url)
    check_delivery_id(delivery_id)
    texts = pick_texts(language, profile.language)
    domain = ascii_domain("from_address", profile.from_address.rpartition("@")[2])
    parts = [
        whole_part(PLAIN, "body_text", _text(texts, profile.list_name, confirm_url)),
        whole_part(HTML, "body_html", _html(texts, profile.list_name, confirm_url)),
    ]
    headers = [
        date_header(date),
        message_id(delivery_id, domain),
        mailbox("From", profile.from_name, profile.from_address),
        f"To: {address}\r\nX-Messmail-Delivery: {delivery_id}\r\n".encode(),
        unstructured("Subject", texts.confirm_subject.format(list_name=profile.list_name)),
        b"MIME-Version: 1.0\r\nAuto-Submitted: auto-generated\r\n",
    ]
    if profile.reply_to is not None:
        headers.insert(3, mailbox("Reply-To", "", profile.reply_to))
    data = b"".join((*headers, alternatives(parts, _BOUNDARY)))
    addresses = "".join((address, profile.from_address, profile.reply_to or "", profile.envelope_sender))
    return ComposedMail(profile.envelope_sender, address, data, not addresses.isascii(), not data.isascii())


def _text(texts: MailTexts, list_name: str, url: str) -> str:
    return (
        f"{texts.confirm_request.format(list_name=list_name)}\n\n{url}\n\n"
        f"{texts.confirm_life}\n\n{texts.confirm_ignore}\n"
    )


def _html(texts: MailTexts, list_name: str, url: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="{texts.tag}">
<head><meta charset="utf-8"><title>{html.escape(texts.confirm_subject.format(list_name=list_name))}</title></head>
<body style="font-family:sans-serif;line-height:1.6;color:#222222;max-width:36em;margin:0 auto;padding:1em">
<p>{html.escape(texts.confirm_request.format(list_name=list_name))}</p>
<p><a href="{html.escape(url)}" style="display:inline-block;padding:.6em 1.2em;background:#1a4f8b;color:#ffffff;\
text-decoration:none;border-radius:4px">{texts.confirm_action}</a></p>
<p>{texts.confirm_life}</p>
<p>{texts.confirm_ignore}</p>
</body>
</html>
"""
