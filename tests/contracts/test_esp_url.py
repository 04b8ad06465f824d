"""SMTP account URLs: what they may say, and that an error never repeats them."""

import pytest

from send_engine.esp.url import SmtpAccount, StartTls, parse_smtp_url


@pytest.mark.parametrize(
    ("url", "account"),
    [
        ("smtp://relay.example", SmtpAccount("relay.example", 25)),
        ("smtp://127.0.0.1:1025", SmtpAccount("127.0.0.1", 1025)),
        ("smtp://127.0.0.1:1025/", SmtpAccount("127.0.0.1", 1025)),
        ("smtp://[::1]:1025", SmtpAccount("::1", 1025)),
        ("smtps://relay.example", SmtpAccount("relay.example", 465, implicit_tls=True)),
        ("smtp://relay.example:587?starttls=require", SmtpAccount("relay.example", 587, starttls=StartTls.require)),
        ("smtp://relay.example?starttls=if-offered", SmtpAccount("relay.example", 25)),
        (
            "smtps://acme%40relay.example:p%3Aa%2Fs%25s@relay.example:2465",
            SmtpAccount("relay.example", 2465, True, user="acme@relay.example", password="p:a/s%s"),
        ),
        (
            "smtp+xoauth2://news%40acme.example@smtp.relay.example:587?token=acme.example&starttls=require",
            SmtpAccount(
                "smtp.relay.example",
                587,
                starttls=StartTls.require,
                user="news@acme.example",
                token_name="acme.example",
            ),
        ),
        (
            "smtps+xoauth2://acme@relay.example?token=a-1_b",
            SmtpAccount("relay.example", 465, True, user="acme", token_name="a-1_b"),
        ),
    ],
)
def test_a_url_describes_an_account(url: str, account: SmtpAccount) -> None:
    assert parse_smtp_url(url) == account


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relay.example",
        "http://relay.example",
        "smtp://",
        "smtp://acme:hunter2@",
        "smtp://acme:hunter2@relay.example:port",
        "smtp://acme:hunter2@relay.example:99999",
        "smtp://acme:hunter2@relay.example/inbox",
        "smtp://acme:hunter2@relay.example#top",
        "smtp://acme:hunter2@relay.example?starttls=never",
        "smtp://acme:hunter2@relay.example?starttls=require&starttls=if-offered",
        "smtp://acme:hunter2@relay.example?tls=1",
        "smtp://acme:hunter2@relay.example?starttls",
        "smtp://hunter2@relay.example",
        "smtp://:hunter2@relay.example",
        "smtp://acme:hunter2@[relay.example",
        "smtp+xoauth2://relay.example?token=hunter2",
        "smtp+xoauth2://acme@relay.example",
        "smtp+xoauth2://acme:hunter2@relay.example?token=acme",
        "smtp+xoauth2://acme@relay.example?token=hunter2&token=acme",
        "smtp+xoauth2://acme@relay.example?token=../hunter2",
        "smtp+xoauth2://acme@relay.example?token=/etc/hunter2",
        "smtp+xoauth2://acme@relay.example?token=.hunter2",
        "smtp+xoauth2://acme@relay.example?token=hunter2%0A",
        "smtp+plain://acme@relay.example?token=hunter2",
        "smtp://acme:hunter2@relay.example?token=acme",
        "smtp://relay.example?token=hunter2",
    ],
)
def test_what_is_no_account_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="SMTP URL") as refused:
        parse_smtp_url(url)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
