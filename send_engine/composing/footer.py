"""The line under a mail that says why it came and how to leave, in the reader's language."""

import html
import re

from send_engine.composing.texts import MailTexts

_END_OF_BODY = re.compile(r"</body\s*>", re.IGNORECASE)


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
    """Returns what stands before and after the footer: it goes inside the last body element, or at the very end."""
    ends = list(_END_OF_BODY.finditer(body))
    return (body[: ends[-1].start()], body[ends[-1].start() :]) if ends else (body, "")
