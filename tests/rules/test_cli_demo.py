"""What the demonstration shows of calls: everything but the secrets."""

from messmail_cli.demo.stage import shorten


def test_secrets_are_cut_short_wherever_they_stand() -> None:
    secret = "s" * 43
    shown = shorten({"client_secret": secret, "deep": [{"access_token": secret, "scope": "a b"}], "token": secret})
    assert secret not in str(shown)
    assert shown["deep"][0]["scope"] == "a b"


def test_ordinary_values_are_shown_whole() -> None:
    value = {"subject": "Weekly Update", "counters": {"sent": 3}, "id": "2f0c3c7e-8a4f-4b1c-9b53-9a3c7a6a7f10"}
    assert shorten(value) == value
