"""TLS and credentials: what is protected, what is refused, and that no secret is said aloud."""

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from send_engine.esp import session
from send_engine.esp.port import Category, ComposedMail, Outcome, Verdict
from send_engine.esp.smtp import SmtpEsp
from send_engine.esp.timeouts import Timeouts
from send_engine.esp.url import SmtpAccount, StartTls
from tests.smtp_server import ONE_BY_ONE, PIPELINED, Act, SmtpServer, say

PATIENT = Timeouts(connect=20, greeting=20, mail=20, rcpt=20, data=20, block=20, final_dot=20, quit=2)
WITH_AUTH = (*PIPELINED, "AUTH PLAIN LOGIN")


class Certificate:
    """A self-signed certificate for localhost, and both ends' view of it."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
                ),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (folder / "server.pem").write_bytes(
            pem
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(folder / "server.pem")
        self.trusting = ssl.create_default_context(cadata=pem.decode())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets the client take the server for one beyond this machine, which a test must not listen on."""
    monkeypatch.setattr(session, "_is_loopback", lambda wire: False)
    yield


def mails(count: int, size: int = 100) -> list[ComposedMail]:
    data = b"Subject: one\r\n\r\n" + (b"0123456789" * 9 + b"\r\n") * (size // 92) + b"end\r\n"
    return [ComposedMail("bounce@list.example", f"reader{n}@example.org", data, False, False) for n in range(count)]


def send(
    server: SmtpServer,
    tls: ssl.SSLContext | None = None,
    count: int = 3,
    size: int = 100,
    token_folder: Path | None = None,
    **account: object,
) -> list[Outcome]:
    async def run() -> list[Outcome]:
        async with server:
            settings = SmtpAccount("localhost", server.port, server.implicit_tls, **account)  # type: ignore[arg-type]
            esp = SmtpEsp(settings, connections=2, timeouts=PATIENT, tls=tls, token_folder=token_folder)
            outcomes = await esp.send(mails(count, size), lambda: False)
            await esp.close()
            return outcomes

    return uvloop.run(run())


def assert_accepted(outcomes: list[Outcome], server: SmtpServer) -> None:
    assert {outcome.verdict for outcome in outcomes} == {Verdict.accepted}, outcomes
    assert len(server.mails) == len(outcomes)
    assert server.violations == []


def assert_deferred(outcomes: list[Outcome], category: Category, reason: str) -> None:
    assert {(outcome.verdict, outcome.category) for outcome in outcomes} == {(Verdict.deferred, category)}, outcomes
    assert reason in outcomes[0].reply


@pytest.mark.parametrize("extensions", [PIPELINED, ONE_BY_ONE], ids=["pipelined", "one by one"])
def test_smtps_protects_everything(certificate: Certificate, extensions: tuple[str, ...]) -> None:
    server = SmtpServer(extensions=extensions, tls=certificate.server, implicit_tls=True)
    assert_accepted(send(server, certificate.trusting, count=20), server)
    assert server.secure_commands[False] == 0


def test_a_large_body_goes_through_tls(certificate: Certificate) -> None:
    server = SmtpServer(tls=certificate.server, implicit_tls=True)
    assert_accepted(send(server, certificate.trusting, size=3_000_000), server)
    assert {received.data for received in server.mails} == {mails(1, 3_000_000)[0].data}


def test_an_untrusted_certificate_is_no_connection(certificate: Certificate) -> None:
    server = SmtpServer(tls=certificate.server, implicit_tls=True)
    assert_deferred(send(server), Category.network, "TLS")
    assert server.commands == []


@pytest.mark.parametrize("extensions", [PIPELINED, ONE_BY_ONE], ids=["pipelined", "one by one"])
def test_required_starttls_protects_all_but_the_first_words(
    certificate: Certificate, extensions: tuple[str, ...]
) -> None:
    server = SmtpServer(extensions=extensions, tls=certificate.server)
    assert_accepted(send(server, certificate.trusting, count=20, starttls=StartTls.require), server)
    # EHLO and STARTTLS on each of two connections; EHLO is said again once it is protected.
    assert server.secure_commands[False] == 4
    assert [command.split()[0] for command in server.commands].count("EHLO") == 4


def test_required_starttls_that_is_not_offered_sends_nothing() -> None:
    server = SmtpServer()
    assert_deferred(send(server, starttls=StartTls.require), Category.policy, "does not offer")
    assert server.mails == []


@pytest.mark.parametrize(
    "answer", [say("454 4.7.0 TLS not available"), say("501 5.5.4 What?"), say("220 Go\n250 injected")], ids=str
)
def test_starttls_that_is_refused_or_tampered_with_sends_nothing(certificate: Certificate, answer: Act) -> None:
    server = SmtpServer(script={"starttls": [answer] * 9}, tls=certificate.server)
    assert_deferred(send(server, certificate.trusting, starttls=StartTls.require), Category.policy, "")
    assert server.mails == []


def test_required_starttls_checks_the_certificate(certificate: Certificate) -> None:
    server = SmtpServer(tls=certificate.server)
    assert_deferred(send(server, starttls=StartTls.require), Category.network, "TLS")
    assert server.mails == []


def test_on_loopback_starttls_is_not_asked_for_unless_required(certificate: Certificate) -> None:
    server = SmtpServer(tls=certificate.server)
    assert_accepted(send(server), server)
    assert "STARTTLS" not in server.commands


@pytest.mark.usefixtures("far_away")
def test_elsewhere_starttls_is_used_where_offered_even_with_a_certificate_nobody_knows(
    certificate: Certificate,
) -> None:
    server = SmtpServer(tls=certificate.server)
    assert_accepted(send(server), server)
    assert server.secure_commands[True] > 0


@pytest.mark.usefixtures("far_away")
def test_credentials_go_only_to_a_server_whose_certificate_is_known(certificate: Certificate) -> None:
    server = SmtpServer(extensions=WITH_AUTH, tls=certificate.server, credentials=("acme", "secret"))
    assert_deferred(send(server, user="acme", password="secret"), Category.network, "TLS")
    assert not any(command.startswith("AUTH") for command in server.commands)


@pytest.mark.usefixtures("far_away")
def test_credentials_are_never_sent_in_clear_beyond_this_machine() -> None:
    server = SmtpServer(extensions=WITH_AUTH, credentials=("acme", "secret"))
    assert_deferred(send(server, user="acme", password="secret"), Category.policy, "in clear")
    assert not any(command.startswith("AUTH") for command in server.commands)


@pytest.mark.parametrize("mechanisms", ["AUTH PLAIN LOGIN", "AUTH LOGIN", "AUTH=LOGIN PLAIN", "auth plain"])
def test_credentials_open_the_session(mechanisms: str) -> None:
    server = SmtpServer(extensions=(*PIPELINED, mechanisms), credentials=("acmé", "s3cret: pass%word"))
    assert_accepted(send(server, user="acmé", password="s3cret: pass%word"), server)


@pytest.mark.usefixtures("far_away")
def test_credentials_go_through_starttls(certificate: Certificate) -> None:
    server = SmtpServer(extensions=WITH_AUTH, tls=certificate.server, credentials=("acme", "secret"))
    assert_accepted(send(server, certificate.trusting, user="acme", password="secret"), server)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_wrong_credentials_defer_and_are_not_repeated(mechanism: str) -> None:
    server = SmtpServer(extensions=(*PIPELINED, f"AUTH {mechanism}"), credentials=("acme", "secret"))
    outcomes = send(server, user="acme-user", password="wrong")
    assert_deferred(outcomes, Category.policy, "refused the credentials")
    assert outcomes[0].code == 535
    assert "acme" not in str(outcomes)
    assert server.mails == []


def test_a_server_that_takes_no_credentials_we_can_give_gets_no_mail() -> None:
    server = SmtpServer(extensions=(*PIPELINED, "AUTH GSSAPI"))
    assert_deferred(send(server, user="acme", password="secret"), Category.policy, "neither")


# ---- access tokens


TOKEN = "ya29.a0-Af_x~y+z/w=="


def token_server(token: str = TOKEN, **options: Any) -> SmtpServer:
    return SmtpServer(
        extensions=(*PIPELINED, "AUTH PLAIN XOAUTH2"), credentials=("news@acme.example", token), **options
    )


def send_with_token(server: SmtpServer, folder: Path | None, **more: Any) -> list[Outcome]:
    return send(server, token_folder=folder, user="news@acme.example", token_name="acme", **more)


def test_an_access_token_from_a_file_opens_the_session(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text(TOKEN + "\n")
    server = token_server()
    assert_accepted(send_with_token(server, tmp_path), server)


def test_a_token_that_was_refreshed_is_used_from_the_next_session_on(tmp_path: Path) -> None:
    async def run() -> list[list[Outcome]]:
        async with token_server("old") as server:
            account = SmtpAccount("localhost", server.port, user="news@acme.example", token_name="acme")
            esp = SmtpEsp(account, connections=1, mails_per_session=1, timeouts=PATIENT, token_folder=tmp_path)
            (tmp_path / "acme").write_text("old")
            first = await esp.send(mails(1), lambda: False)
            server.credentials = ("news@acme.example", "new")
            stale = await esp.send(mails(1), lambda: False)
            (tmp_path / "acme").write_text("new")
            refreshed = await esp.send(mails(1), lambda: False)
            await esp.close()
            assert server.violations == []
            return [first, stale, refreshed]

    outcomes = uvloop.run(run())
    assert [one.verdict for (one,) in outcomes] == [Verdict.accepted, Verdict.deferred, Verdict.accepted]
    assert outcomes[1][0].code == 535


@pytest.mark.parametrize("content", [None, "", "two words", "line\nline", "x" * 9_000, "bearer\x00"], ids=repr)
def test_without_a_token_that_is_one_nothing_is_sent(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "acme").write_text(content)
    server = token_server()
    assert_deferred(send_with_token(server, tmp_path), Category.policy, "no access token")
    assert not any(command.startswith("AUTH") for command in server.commands)


def test_without_a_folder_there_are_no_tokens() -> None:
    assert_deferred(send_with_token(token_server(), None), Category.policy, "no access token")


def test_a_refused_token_defers_and_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text("expired-token")
    server = token_server()
    outcomes = send_with_token(server, tmp_path)
    assert_deferred(outcomes, Category.policy, "refused the credentials")
    assert outcomes[0].code == 535
    assert "expired-token" not in str(outcomes)
    assert server.violations == []


def test_a_server_without_xoauth2_is_not_shown_the_token(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text(TOKEN)
    server = SmtpServer(extensions=WITH_AUTH, credentials=("news@acme.example", TOKEN))
    assert_deferred(send_with_token(server, tmp_path), Category.policy, "XOAUTH2")
    assert not any(command.startswith("AUTH") for command in server.commands)


@pytest.mark.usefixtures("far_away")
def test_a_token_is_never_sent_in_clear_beyond_this_machine(certificate: Certificate, tmp_path: Path) -> None:
    (tmp_path / "acme").write_text(TOKEN)
    plain = token_server()
    assert_deferred(send_with_token(plain, tmp_path), Category.policy, "in clear")
    assert not any(command.startswith("AUTH") for command in plain.commands)
    protected = token_server(tls=certificate.server)
    assert_accepted(send_with_token(protected, tmp_path, tls=certificate.trusting), protected)


def test_an_account_does_not_show_its_password() -> None:
    assert "secret" not in repr(SmtpAccount("relay.example", 25, user="acme", password="secret"))
