"""The line under a mail that says why it came and how to leave, in the reader's language."""

import html
import re

from send_engine.composing.texts import MailTexts

_END_OF_BODY = re.compile(r"</body\s*>", re.IGNORECASE)
# As browsers read one (HTML Living Standard 13.2.5.43); one without an end goes on to the end of the body.
_COMMENT = re.compile(r"<!--(?:-?>|.*?(?:--!?>|(?P<open>\Z)))", re.DOTALL)


def text_footer(texts: MailTexts, list_name: str, url: str) -> str:
    """Returns the footer of a text part, after the separator that mail programs know as the end of the text."""
    return f"\n-- \n{texts.footer.format(list_name=list_name)}\n{texts.unsubscribe}: {url}\n"


def html_footer(texts: MailTexts, list_name: str, url: str) -> str:
    """Returns the footer of an HTML part."""
    return (
        f'\n<div lang="{texts.tag}" style="margin-top:2em;border-top:1px solid #cccccc;padding-top:1em;'
        f'font-size:smaller;color:#595959">\n'
        f"{html.escape(texts.footer.format(list_name=list_name))}\n"
        f'<a href="{html.escape(url)}">{texts.unsubscribe}</a>\n'
        "</div>\n"
    )


def split_html(body: str) -> tuple[str, str]:
    """Returns what stands before and after the footer: it goes inside the last body element, or else at the very end.

    Neither end is looked for in a comment: what goes there is seen by nobody.
    """
    shown, ended = _blanked(body)
    ends = list(_END_OF_BODY.finditer(shown))
    at = ends[-1].start() if ends else ended
    return body[:at], body[at:]


def shows(body: str, link: str) -> bool:
    """Tells whether an HTML body has a link outside its comments."""
    return html.escape(link) in _blanked(body)[0]


def _blanked(body: str) -> tuple[str, int]:
    """Returns the body with spaces for its comments, and where it ends for whoever reads it."""
    if "<!--" not in body:
        return body, len(body)
    comments = list(_COMMENT.finditer(body))
    end = len(body) if comments[-1]["open"] is None else comments[-1].start()
    return _COMMENT.sub(lambda comment: " " * len(comment[0]), body), end
