"""The JSON of the mailbox, shaped like Mailpit's API so that its clients work.

Read marks and tags are not kept: every mail counts as unread.
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from local_stack.mailbox.reading import (
    Attachment,
    Person,
    header_lines,
    read_body,
    read_headers,
    read_people,
    read_words,
)
from local_stack.mailbox.store import Mail, MailStore

Json = dict[str, Any]

# Forgotten with their mails.
_summaries: WeakKeyDictionary[Mail, Json] = WeakKeyDictionary()


def message_list(store: MailStore, mails: list[Mail], matching: int, start: int) -> Json:
    """Lists mails, with how many match and how many there are."""
    return {
        "total": len(store),
        "unread": len(store),
        "count": len(mails),
        "messages_count": matching,
        "messages_unread": matching,
        "start": start,
        "tags": [],
        "messages": [summary(mail) for mail in mails],
    }


def summary(mail: Mail) -> Json:
    """Describes a mail as a row of a list; read once, since lists are asked for again and again."""
    if mail not in _summaries:
        _summaries[mail] = _summary(mail)
    return _summaries[mail]


def _summary(mail: Mail) -> Json:
    body = read_body(mail.raw)
    return {
        **_envelope(mail, read_headers(mail.raw)),
        "Read": False,
        "Created": _rfc3339(datetime.fromtimestamp(mail.received, UTC)),
        "Attachments": len(body.attachments),
        "Snippet": body.snippet,
    }


def message(mail: Mail) -> Json:
    """Describes a mail in full."""
    headers = read_headers(mail.raw)
    body = read_body(mail.raw)
    return {
        **_envelope(mail, headers),
        "ReturnPath": mail.sender,
        "Date": _rfc3339(_date(headers.get("date", ""), mail)),
        "ListUnsubscribe": {
            "Header": headers.get("list-unsubscribe", ""),
            "HeaderPost": headers.get("list-unsubscribe-post", ""),
            "Links": _links(headers.get("list-unsubscribe", "")),
            "Errors": "",
        },
        "Text": body.text,
        "HTML": body.html,
        "Inline": [_attachment(one) for one in body.attachments if one.content_id],
        "Attachments": [_attachment(one) for one in body.attachments if not one.content_id],
    }


def headers(mail: Mail) -> dict[str, list[str]]:
    """Lists all values of each header (`Message-Id`), unfolded, encoded words as they are."""
    found: dict[str, list[str]] = {}
    for name, value in header_lines(mail.raw):
        found.setdefault(name.title(), []).append(value)
    return found


def _envelope(mail: Mail, headers: dict[str, str]) -> Json:
    sender, to, cc, reply_to = (read_people(headers.get(name, "")) for name in ("from", "to", "cc", "reply-to"))
    named = {person.address for person in (*to, *cc)}
    return {
        "ID": mail.id,
        "MessageID": headers.get("message-id", "").strip("<>"),
        "From": _person((sender or [Person("", mail.sender)])[0]),
        "To": [_person(one) for one in to],
        "Cc": [_person(one) for one in cc],
        "Bcc": [_person(Person("", one)) for one in mail.recipients if one not in named],
        "ReplyTo": [_person(one) for one in reply_to],
        "Subject": read_words(headers.get("subject", "")),
        "Size": len(mail.raw),
        "Tags": [],
    }


def _person(person: Person) -> Json:
    return {"Name": person.name, "Address": person.address}


def _attachment(one: Attachment) -> Json:
    return {
        "PartID": one.part,
        "FileName": one.file_name or one.content_id,
        "ContentType": one.content_type,
        "ContentID": one.content_id,
        "Size": one.size,
    }


def _links(header: str) -> list[str]:
    links = [one.strip().removeprefix("<").removesuffix(">") for one in header.split(",")]
    return [link for link in links if urlsplit(link).scheme in ("http", "https", "mailto")]


def _date(header: str, mail: Mail) -> datetime:
    try:
        return parsedate_to_datetime(header)
    except ValueError:
        return datetime.fromtimestamp(mail.received, UTC)


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
