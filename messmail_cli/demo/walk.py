"""The seven steps of the guide, each a real call, and the count of what arrived at the end.

The audience is 1,000 people: those imported, less one who unsubscribes, and one who really subscribes.
"""

import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from messmail_cli.demo.mailbox import Mail, Mailbox, NoMailError
from messmail_cli.demo.scene import Scene
from messmail_cli.demo.site import Exchange, TenantSite
from messmail_cli.demo.stage import Stage
from messmail_cli.failures import CommandFailed

_CONFIRM_LINK: Final = re.compile(r"https?://\S+/newsletter/confirm\?token=[\w.~-]+")
_ENDED: Final = {"completed", "cancelled", "failed"}
_JOB_SECONDS: Final = 300.0
_POLL_SECONDS: Final = 0.2


class Walk:
    """One walk through the guide."""

    def __init__(self, stage: Stage, site: TenantSite, mailbox: Mailbox, scene: Scene) -> None:
        self._stage = stage
        self._site = site
        self._mailbox = mailbox
        self._scene = scene
        self._leaver = min(scene.members)
        self._mails_before = 0

    def run(self) -> int:
        """Walks all steps and returns how many mails arrived; raises CommandFailed at the first that goes wrong."""
        self._subscribe()
        self._confirm(self._confirmation_mail())
        self._unsubscribe(self._unsubscribe_token())
        token = self._access_token()
        job_id = self._create_job(token)
        self._follow_job(job_id, token)
        return self._recount()

    def _subscribe(self) -> None:
        self._stage.step("1", "The tenant's site subscribes a reader")
        body = {
            "list_id": self._scene.list_id,
            "email": self._scene.newcomer,
            "preferences": {"lang": "zh-TW", "topics": ["books"]},
        }
        self._call(lambda: self._site.post_json("/newsletter/subscribe", body))

    def _confirmation_mail(self) -> str:
        self._stage.step("2", "Member Center's confirmation mail arrives")
        mail = self._arrived(self._scene.newcomer)
        text = str(self._mailbox.content(mail)["Text"])
        self._stage.mail(mail.to, mail.sender, mail.subject, text)
        link = _CONFIRM_LINK.search(text)
        if link is None:
            raise CommandFailed("The confirmation mail has no link")
        return link.group()

    def _confirm(self, link: str) -> None:
        self._stage.step("3", "The reader follows the link and presses the button")
        address = urlsplit(link)
        self._stage.say("Following the link changes nothing, because link scanners follow it too:")
        followed = self._call(lambda: self._site.get(f"{address.path}?{address.query}"))
        _expect(followed, "status", "pending")
        self._stage.say("The button of the page confirms:")
        form = {"token": parse_qs(address.query)["token"][0]}
        confirmed = self._call(lambda: self._site.post_form(address.path, form))
        _expect(confirmed, "status", "confirmed")
        self._stage.say("Now the reader's preferences are in force:")
        query = urlencode({"list_id": self._scene.list_id, "email": self._scene.newcomer})
        self._call(lambda: self._site.get(f"/newsletter/preferences?{query}"))

    def _unsubscribe_token(self) -> str:
        self._stage.step("4", "Another reader wants to leave: the site asks for a token")
        body = {"list_id": self._scene.list_id, "email": self._leaver}
        answer = self._call(lambda: self._site.post_json("/newsletter/unsubscribe-token", body))
        return str(answer.answer["unsubscribe_token"])

    def _unsubscribe(self, token: str) -> None:
        self._stage.step("5", "… and unsubscribes with it")
        answer = self._call(lambda: self._site.post_json("/newsletter/unsubscribe", {"token": token}))
        _expect(answer, "status", "unsubscribed")

    def _access_token(self) -> str:
        self._stage.step("6", "The site gets an access token and creates a send job")
        form = {
            "grant_type": "client_credentials",
            "client_id": self._scene.client_id,
            "client_secret": self._scene.client_secret,
            "scope": "newsletter:send.write newsletter:send.read",
        }
        answer = self._call(lambda: self._site.post_form("/oauth/token", form))
        return str(answer.answer["access_token"])

    def _create_job(self, token: str) -> str:
        self._mails_before = self._mailbox.count(self._scene.address_end)
        body = {
            "tenant_id": self._scene.tenant_id,
            "list_id": self._scene.list_id,
            "name": "Weekly Update",
            "subject": self._scene.subject,
            "body_html": "<p>Hello</p>",
            "body_text": "Hello",
        }
        answer = self._call(lambda: self._site.post_json("/api/send-jobs", body, token))
        return str(answer.answer["id"])

    def _follow_job(self, job_id: str, token: str) -> None:
        audience = len(self._audience())
        self._stage.step("7", f"Send Engine delivers to {audience:,} people")
        path = f"/api/send-jobs/{job_id}"
        deadline = time.monotonic() + _JOB_SECONDS
        with self._stage.progress() as progress:
            sent = progress.add_task("sent", total=audience)
            arrived = progress.add_task("arrived", total=audience)
            while True:
                exchange = self._site.get(path, token)
                _accepted(exchange)
                job: dict[str, Any] = exchange.answer
                progress.update(sent, completed=job["counters"]["sent"])
                progress.update(arrived, completed=self._mailbox.count(self._scene.address_end) - self._mails_before)
                if job["status"] in _ENDED:
                    break
                if time.monotonic() > deadline:
                    raise CommandFailed(f"The job was not done within {_JOB_SECONDS:.0f} seconds")
                time.sleep(_POLL_SECONDS)
        self._stage.call(exchange)
        _expect(exchange, "status", "completed")

    def _recount(self) -> int:
        """Compares the mailbox with the audience, person by person."""
        audience = self._audience()
        received = Counter(mail.to for mail in self._mailbox.mails() if mail.subject == self._scene.subject)
        missing, strangers = audience - received.keys(), received.keys() - audience
        doubled = [to for to, times in received.items() if times > 1]
        if missing or strangers or doubled:
            raise CommandFailed(
                f"The mailbox does not hold what it should: {len(missing):,} mails are missing, {len(doubled):,} came "
                f"more than once, {len(strangers):,} went to people who should have none"
            )
        mail = self._arrived(self._scene.newcomer)
        self._stage.mail(mail.to, mail.sender, mail.subject, str(self._mailbox.content(mail)["Text"]))
        return received.total()

    def _audience(self) -> set[str]:
        return (set(self._scene.members) - {self._leaver}) | {self._scene.newcomer}

    def _arrived(self, to: str) -> Mail:
        try:
            return self._mailbox.wait_for(to)
        except NoMailError as error:
            raise CommandFailed(f"Something did not arrive: {error}") from None

    def _call(self, call: Callable[[], Exchange]) -> Exchange:
        exchange = call()
        self._stage.call(exchange)
        _accepted(exchange)
        return exchange


def _accepted(exchange: Exchange) -> None:
    if exchange.status >= 400:
        reason = exchange.answer.get("reason", "") if isinstance(exchange.answer, dict) else ""
        raise CommandFailed(
            f"{exchange.method} {exchange.path.partition('?')[0]} was refused: {exchange.status} {reason}"
        )


def _expect(exchange: Exchange, name: str, value: str) -> None:
    found = exchange.answer.get(name) if isinstance(exchange.answer, dict) else None
    if found != value:
        raise CommandFailed(f"{exchange.path.partition('?')[0]} should have answered {name} {value}, not {found}")
