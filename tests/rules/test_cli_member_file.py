"""What a CSV file of members may look like, and how it is told what is wrong with it."""

from pathlib import Path

import pytest

from messmail_cli.failures import CommandFailed
from messmail_cli.member_file import MemberFile, MemberRow


def rows_of(tmp_path: Path, content: str | bytes) -> list[MemberRow]:
    file = tmp_path / "members.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    members = MemberFile(file)
    try:
        return list(members)
    finally:
        members.close()


def test_an_address_and_preferences_are_read(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 'email,preferences\nann@acme.example,"{""lang"": ""en""}"\nbob@acme.example,\n')
    assert rows == [
        MemberRow(2, "ann@acme.example", '{"lang": "en"}', {"lang": "en"}),
        MemberRow(3, "bob@acme.example"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfemail\r\nann@acme.example\r\n",
        b"Email\nann@acme.example",
        b"  EMAIL ,name\nann@acme.example,Ann\n",
        b'"email"\n\n"ann@acme.example"\n\n',
    ],
)
def test_spellings_of_the_same_file_read_alike(tmp_path: Path, content: bytes) -> None:
    assert [row.email for row in rows_of(tmp_path, content)] == ["ann@acme.example"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("email\nann@acme.example\n".encode("utf-16"), "UTF-16"),
        ("email\nann@grün.example\n".encode("latin-1"), "is not UTF-8"),
        (b"", "must name the columns"),
        (b"ann@acme.example\n", "must name the columns"),
        (b"email,email\n", "must name the columns"),
        (b"email;preferences\nann@acme.example;\n", "not separated by commas"),
        (b'email\n"ann@acme.example\n', "begins on line 2"),
        (b'email\nbob@acme.example\n"ann@acme.example\ncarol@acme.example\n\n', "begins on line 3"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(CommandFailed) as failed:
        rows_of(tmp_path, content)
    assert said in failed.value.message


@pytest.mark.parametrize(
    ("preferences", "problem"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ('"text"', "is not a JSON object"),
        ("[" * 100_000, "is not JSON"),
        ('{"a":' * 5 + "1" + "}" * 5, "is nested deeper"),
        ('{"a": NaN}', "not finite"),
        ('{"a": {"b": 1, "b": 2}}', "two members of the same name"),
        ('{"a": "' + "x" * 5000 + '"}', "is larger than"),
    ],
)
def test_bad_preferences_reject_their_row_alone(tmp_path: Path, preferences: str, problem: str) -> None:
    quoted = preferences.replace('"', '""')
    bad, good = rows_of(tmp_path, f'email,preferences\nann@acme.example,"{quoted}"\nbob@acme.example,\n')
    assert problem in bad.problem
    assert not good.problem


def test_a_row_with_too_few_or_too_many_fields_is_rejected(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "email,preferences\nann@acme.example\nbob@acme.example,,x\n")
    assert [row.problem for row in rows] == ["has 1 fields instead of 2", "has 3 fields instead of 2"]


def test_a_row_of_the_wrong_length_is_rejected_with_the_address_of_its_own_column(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "name,email\nAnn,ann@acme.example,x\nBob\n")
    assert [row.email for row in rows] == ["ann@acme.example", ""]


def test_the_position_reaches_the_size(tmp_path: Path) -> None:
    file = tmp_path / "members.csv"
    file.write_text("email\n" + "".join(f"reader{number}@acme.example\n" for number in range(5000)))
    members = MemberFile(file)
    positions = [members.position for _ in members]
    members.close()
    assert positions == sorted(positions)
    assert positions[0] < members.size == positions[-1]
