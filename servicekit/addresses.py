"""E-mail addresses: the one place that says what a mailbox is, how it is written and under which key a person is found.

The rules are those of RFC 5321 and RFC 6531 for what mail servers exchange, not those of RFC 5322 for what headers may
hold: a dot-atom local part, one "@", a domain name with at least one dot, at most 64 and 254 octets. Quoted local parts
are refused although the grammar has them: no large mailbox provider hands them out, RFC 5321 4.1.2 advises against
them, and addresses such as `"x@evil.example y"@acme.example` exist to be routed elsewhere. Comments, address literals,
trailing dots and surrounding white space are refused too; nothing is repaired but the spelling of the domain.

It does not ask the DNS, and it does not write headers (a `Mailbox` name still has to be encoded by the composer).
"""

import re
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import idna

_PROBLEMS: Final = {
    "empty": "is empty",
    "too_long": "is longer than 254 octets",
    "character": "contains a control character or a line separator",
    "no_at": 'needs exactly one "@" between local part and domain',
    "local_empty": 'has nothing before the "@"',
    "local_too_long": 'has more than 64 octets before the "@"',
    "local_quoted": "has a quoted local part, which is not accepted",
    "local_dots": "has a local part that begins or ends with a dot, or has two in a row",
    "local_encoded": 'has an encoded-word before the "@"',
    "local_character": 'has a character before the "@" that is not accepted',
    "domain_empty": 'has nothing after the "@"',
    "domain_literal": "names an IP address instead of a domain",
    "domain_no_dot": "has a domain without a dot",
    "domain_trailing_dot": "has a domain that ends with a dot",
    "domain_too_long": "has a domain or a label of it that is too long",
    "domain_invalid": "has a domain that is not a valid host name",
    "mailbox_form": 'is not of the form "name <address>"',
    "name_too_long": "has a display name longer than 200 characters",
    "name_character": "has a control or direction character in its display name",
    "name_encoded": "has an encoded-word in its display name",
    "name_unquoted": "has a display name with special characters that must stand in double quotes",
}

_MAX_OCTETS: Final = 254  # RFC 5321 4.5.3.1.3: a path of 256 octets, less its angle brackets.
_MAX_LOCAL_OCTETS: Final = 64  # RFC 5321 4.5.3.1.1, counted in UTF-8 (RFC 6531 3.3).
_MAX_NAME_CHARACTERS: Final = 200
# An address is no longer in characters than in octets once its domain is an A-label, but a U-label may be mapped to
# something shorter; this only bounds the work spent on nonsense.
_MAX_TYPED_CHARACTERS: Final = 1024

_ASCII_LOCAL_CHARACTERS: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]*")
_ASCII_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
# Control, surrogate, line and paragraph separator: never printable, and what header injection is made of.
_BREAKING_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
# In a local part also invisible, private and unassigned characters: two people would look alike, or the key would
# change with the next edition of Unicode.
_UNFIT_LOCAL_CATEGORIES: Final = frozenset({"Cf", "Cn", "Co", "Zs"})
_ENCODED_WORD: Final = re.compile(r"=\?[^?]+\?[bq]\?[^?]*\?=", re.IGNORECASE)
# What WHATWG calls "ends in a number": some resolvers would read the whole name as an IPv4 address.
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

_MAILBOX: Final = re.compile(r"(?P<name>[^<>]*)<(?P<address>[^<>]*)>")
_QUOTED_NAME: Final = re.compile(r'"((?:[^"\\]|\\.)*+)"')
# RFC 5322 specials, less the full stop and the comma: "Acme, Inc. <news@acme.example>" is unmistakable.
_NAME_SPECIALS: Final = frozenset('"\\()[]:;@')
_DIRECTION_CHARACTERS: Final = re.compile("[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")


class AddressError(ValueError):
    """Says why a text is no acceptable address; `code` is stable, and neither it nor `problem` repeats the text."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.problem = _PROBLEMS[code]
        super().__init__(self.problem)


@dataclass(frozen=True, slots=True)
class EmailAddress:
    """An address that `parse_address` accepted. Its repr shows nothing, so that a trace cannot leak it."""

    typed_local: str = field(repr=False)
    domain: str = field(repr=False)  # A-labels, lower case

    @property
    def address(self) -> str:
        """The mailbox to send to: the local part exactly as typed, since only its own server may fold it."""
        return f"{self.typed_local}@{self.domain}"

    @property
    def key(self) -> str:
        """The key a person is found by; never an address to send to.

        Only ASCII letters are folded. Other letters are compared as they are (in NFC), since folding a
        dotless i or a long s would let one person stand for another.
        """
        if self.typed_local.isascii():
            return f"{self.typed_local.lower()}@{self.domain}"
        folded = unicodedata.normalize("NFC", self.typed_local).translate(_ASCII_LOWER)
        # "J" and a caron have no composed form, "j" and a caron have one: hence NFC once more.
        return f"{unicodedata.normalize('NFC', folded)}@{self.domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """True if only a server that offers SMTPUTF8 (RFC 6531) can take the mail."""
        return not self.typed_local.isascii()


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A display name (may be empty) with its address."""

    name: str
    address: EmailAddress


def parse_address(text: str) -> EmailAddress:
    """Reads one bare address; raises AddressError."""
    if not text:
        raise AddressError("empty")
    if len(text) > _MAX_TYPED_CHARACTERS:
        raise AddressError("too_long")
    # Of the ASCII characters the printable ones break nothing, and most addresses have no others.
    if not (text.isascii() and text.isprintable()) and any(
        unicodedata.category(character) in _BREAKING_CATEGORIES for character in text
    ):
        raise AddressError("character")
    if text.startswith('"'):
        raise AddressError("local_quoted")
    if text.count("@") != 1:
        raise AddressError("no_at")
    typed_local, _, typed_domain = text.partition("@")
    _check_local(typed_local)
    domain = _read_domain(typed_domain)
    if len(typed_local.encode()) + 1 + len(domain) > _MAX_OCTETS:
        raise AddressError("too_long")
    return EmailAddress(typed_local, domain)


def parse_mailbox(text: str) -> Mailbox:
    """Reads `address`, `<address>`, `Name <address>` or `"Na: me" <address>`; raises AddressError.

    The name is returned without quotes and is safe for a header once encoded: no control or direction characters, and
    no encoded-words, whose decoding elsewhere could bring such characters back.
    """
    text = text.strip(" ")
    if "<" not in text and ">" not in text:
        return Mailbox("", parse_address(text))
    quoted = _QUOTED_NAME.match(text)
    after_quotes = quoted.end() if quoted else 0
    match = _MAILBOX.fullmatch(text, after_quotes)
    if match is None:
        raise AddressError("mailbox_form")
    typed_name = match["name"].strip(" ")
    if quoted is None:
        name = typed_name
        if not _NAME_SPECIALS.isdisjoint(name):
            raise AddressError("name_unquoted")
    elif typed_name:
        raise AddressError("mailbox_form")
    else:
        name = re.sub(r"\\(.)", r"\1", quoted[1])
    _check_name(name)
    return Mailbox(name, parse_address(match["address"]))


def _check_local(local: str) -> None:
    if not local:
        raise AddressError("local_empty")
    if len(local.encode()) > _MAX_LOCAL_OCTETS:
        raise AddressError("local_too_long")
    # RFC 2047 allows no encoded word in an address, and yet there are readers that decode one there.
    if _ENCODED_WORD.search(local):
        raise AddressError("local_encoded")
    if local.startswith(".") or local.endswith(".") or ".." in local:
        raise AddressError("local_dots")
    if local.isascii():
        beyond_ascii, ascii_only = [], local
    else:
        beyond_ascii = [character for character in local if not character.isascii()]
        ascii_only = "".join(character for character in local if character.isascii())
    if not _ASCII_LOCAL_CHARACTERS.fullmatch(ascii_only) or any(map(_is_unfit_for_local, beyond_ascii)):
        raise AddressError("local_character")


def _is_unfit_for_local(character: str) -> bool:
    # The Kelvin sign and two others *are* ASCII characters to every program that normalises: U+212A becomes "K".
    # Whoever accepts them either lets two people share a key or gives one mailbox two keys.
    return (
        unicodedata.category(character) in _UNFIT_LOCAL_CATEGORIES or unicodedata.normalize("NFC", character).isascii()
    )


def _read_domain(typed: str) -> str:
    if not typed:
        raise AddressError("domain_empty")
    if typed.startswith("["):
        raise AddressError("domain_literal")
    domain, problem = _to_a_labels(typed)
    # Raised here and not while handling the library's error, which quotes the domain and would be its __context__.
    if problem:
        raise AddressError(problem)
    if domain.endswith("."):
        raise AddressError("domain_trailing_dot")
    if "." not in domain:
        raise AddressError("domain_no_dot")
    if _NUMERIC_LABEL.fullmatch(domain.rpartition(".")[2]):
        raise AddressError("domain_literal")
    return domain


@lru_cache(maxsize=4096)
def _to_a_labels(typed: str) -> tuple[str, str]:
    """Returns the domain as IDNA 2008 A-labels after UTS 46 mapping (non-transitional), or a problem's code.

    A few domains make up most of any list, and mapping one costs more than all other checks of an address together.
    """
    try:
        return idna.encode(typed, uts46=True, std3_rules=True).decode("ascii"), ""
    except idna.IDNAError as error:
        is_too_long = error.code in {"input_too_long", "label_too_long", "domain_too_long"}
        return "", "domain_too_long" if is_too_long else "domain_invalid"


def _check_name(name: str) -> None:
    if len(name) > _MAX_NAME_CHARACTERS:
        raise AddressError("name_too_long")
    if "=?" in name:
        raise AddressError("name_encoded")
    has_breaking = any(unicodedata.category(character) in _BREAKING_CATEGORIES for character in name)
    if has_breaking or _DIRECTION_CHARACTERS.search(name):
        raise AddressError("name_character")
