"""How SMTP sessions are opened, shared, renewed and ended."""

import asyncio
import email
import gc
import socket
import weakref
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from send_engine.esp.port import Category, ComposedMail, Outcome, Verdict
from send_engine.esp.smtp import SmtpEsp
from send_engine.esp.timeouts import Timeouts
from tests.claims_table import ClaimRow, hand_in_claim
from tests.smtp_scenes import PATIENT, mail, mails, never, play, until, verdicts
from tests.smtp_server import CLOSE, HANG, ONE_BY_ONE, PIPELINED, RESET, Act, SmtpServer, say, say_and

# ---- pipelining


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("extensions", [PIPELINED, ONE_BY_ONE], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
def test_many_mails_arrive_once_and_whole(
    runner: Callable[[Awaitable[object]], object], extensions: tuple[str, ...], apart: bool
) -> None:
    async def run() -> None:
        async with SmtpServer(extensions=extensions, apart=apart) as server:
            esp = SmtpEsp(server.url, connections=3, timeouts=PATIENT)
            outcomes = await esp.send(mails(60), never)
            await esp.close()
        assert set(verdicts(outcomes)) == {Verdict.accepted}
        assert sorted(received.recipient for received in server.mails) == sorted(sent.recipient for sent in mails(60))
        assert {received.data for received in server.mails} == {mail().data}
        assert server.violations == []
        assert server.connections == 3

    runner(run())


def test_the_next_mails_commands_travel_with_the_body() -> None:
    slow_dots = SmtpServer(script={"dot": [Act(b"250 2.0.0 Ok\r\n", seconds=0.05)] * 10})
    outcomes, server = play(slow_dots, lambda esp: esp.send(mails(10), never))
    assert set(verdicts(outcomes)) == {Verdict.accepted}
    assert server.pipelined_bodies == 9


def test_without_pipelining_nothing_travels_ahead() -> None:
    slow_dots = SmtpServer(script={"dot": [Act(b"250 2.0.0 Ok\r\n", seconds=0.01)] * 5}, extensions=ONE_BY_ONE)
    _, server = play(slow_dots, lambda esp: esp.send(mails(5), never))
    assert server.pipelined_bodies == 0
    assert server.violations == []


@pytest.mark.parametrize("extensions", [PIPELINED, ONE_BY_ONE], ids=["pipelined", "one by one"])
def test_after_a_refused_recipient_the_transaction_is_reset(extensions: tuple[str, ...]) -> None:
    refusing = SmtpServer(script={"rcpt": [say("550 5.1.1 No")]}, extensions=extensions)
    outcomes, server = play(refusing, lambda esp: esp.send(mails(2), never))
    assert verdicts(outcomes) == [Verdict.failed, Verdict.accepted]
    assert "RSET" in server.commands
    assert server.violations == []


def test_a_body_asked_for_in_spite_of_a_refused_recipient_gets_a_lone_dot() -> None:
    eager = SmtpServer(script={"rcpt": [say("550 5.1.1 No")] * 2, "data": [say("354 Go")] * 2})
    outcomes, server = play(eager, lambda esp: esp.send(mails(3), never))
    assert verdicts(outcomes) == [Verdict.failed, Verdict.failed, Verdict.accepted]
    assert outcomes[0].enhanced == "5.1.1"
    assert [received.recipient for received in server.mails] == ["reader2@example.org"]
    assert server.violations == []
    assert server.connections == 1


def test_nobody_gets_an_empty_mail_from_a_server_that_refused_only_the_sender() -> None:
    sloppy = SmtpServer(script={"mail": [say("550 5.7.1 No")], "rcpt": [say("250 Ok")], "data": [say("354 Go")]})
    outcomes, server = play(sloppy, lambda esp: esp.send(mails(2), never))
    assert verdicts(outcomes) == [Verdict.failed, Verdict.accepted]
    assert [received.recipient for received in server.mails] == ["reader1@example.org"]


def test_a_session_left_in_the_middle_of_a_transaction_is_reset_when_used_again() -> None:
    async def scene(esp: SmtpEsp) -> list[Outcome]:
        return [*await esp.send(mails(1), never), *await esp.send(mails(1), never)]

    outcomes, server = play(SmtpServer(script={"rcpt": [say("450 4.2.1 Busy")]}), scene)
    assert verdicts(outcomes) == [Verdict.deferred, Verdict.accepted]
    assert server.connections == 1
    assert server.violations == []


# ---- what a server cannot carry


@pytest.mark.claim("I5", "addresses beyond ASCII with and without SMTPUTF8: as typed, or failed with a reason")
def test_an_address_that_needs_smtputf8_fails_where_it_is_not_offered() -> None:
    internationalised = ComposedMail("bounce@list.example", "用戶@example.org", b"x\r\n\r\n", True, True)
    outcomes, server = play(
        SmtpServer(extensions=("PIPELINING", "8BITMIME")), lambda esp: esp.send([internationalised, mail(1)], never)
    )
    assert (outcomes[0].verdict, outcomes[0].enhanced, outcomes[0].category) == (
        Verdict.failed,
        "5.6.7",
        Category.mailbox,
    )
    assert outcomes[1].verdict is Verdict.accepted
    assert [received.recipient for received in server.mails] == ["reader1@example.org"]


@pytest.mark.claim("I5", "addresses beyond ASCII with and without SMTPUTF8: as typed, or failed with a reason")
def test_an_address_that_needs_smtputf8_is_sent_as_it_is_where_it_is_offered() -> None:
    internationalised = ComposedMail("bounce@list.example", "用戶@example.org", "é\r\n\r\n".encode(), True, True)
    outcomes, server = play(SmtpServer(), lambda esp: esp.send([internationalised], never))
    assert verdicts(outcomes) == [Verdict.accepted]
    assert server.mails[0].recipient == "用戶@example.org"
    assert server.mails[0].parameters == "BODY=8BITMIME SMTPUTF8"


@pytest.mark.parametrize("others", [("PIPELINING",), ()])
def test_an_eight_bit_body_is_quoted_where_it_is_not_offered(others: tuple[str, ...]) -> None:
    head = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    eight_bit = mail(1)._replace(data=head + "..é\r\n".encode(), eight_bit=True)
    outcomes, server = play(SmtpServer(extensions=others), lambda esp: esp.send([eight_bit, eight_bit], never))
    assert verdicts(outcomes) == [Verdict.accepted, Verdict.accepted]
    for received in server.mails:
        assert received.parameters == ""
        assert received.data.isascii()
        assert email.message_from_bytes(received.data).get_payload(decode=True) == ".é\r\n".encode()


def test_an_address_beyond_ascii_fails_where_no_eight_bits_are_offered() -> None:
    internationalised = ComposedMail("bounce@list.example", "用戶@example.org", "é\r\n".encode(), True, True)
    outcomes, server = play(SmtpServer(extensions=("SMTPUTF8",)), lambda esp: esp.send([internationalised], never))
    assert (outcomes[0].verdict, outcomes[0].enhanced) == (Verdict.failed, "5.6.3")
    assert server.mails == []


def test_a_mail_over_the_servers_size_fails_unsent_and_others_name_theirs() -> None:
    outcomes, server = play(
        SmtpServer(extensions=("PIPELINING", "SIZE 2000")),
        lambda esp: esp.send([mail(0, size=4_000), mail(1, size=1_000)], never),
    )
    assert verdicts(outcomes) == [Verdict.failed, Verdict.accepted]
    assert outcomes[0].enhanced == "5.3.4"
    assert server.mails[0].parameters == f"SIZE={len(mail(1, size=1_000).data)}"


@pytest.mark.parametrize(
    "address",
    [
        "a@example.org>\r\nRCPT TO:<b@example.org",
        "a@example.org> NOTIFY=SUCCESS",
        "a@example.org\n",
        "a b@example.org",
        "",
        "a\x00@example.org",
        '"a\r\nb"@example.org',
    ],
)
def test_an_address_that_would_be_more_than_an_address_never_reaches_the_wire(address: str) -> None:
    smuggler = ComposedMail("bounce@list.example", address, b"x\r\n", False, False)
    outcomes, server = play(SmtpServer(), lambda esp: esp.send([smuggler], never))
    assert (outcomes[0].verdict, outcomes[0].enhanced) == (Verdict.failed, "5.1.3")
    assert not any(command.startswith(("MAIL", "RCPT")) for command in server.commands)


def test_a_quoted_local_part_and_an_empty_sender_are_addresses() -> None:
    outcomes, server = play(
        SmtpServer(), lambda esp: esp.send([ComposedMail("", '"a > b"@example.org', b"x\r\n", False, False)], never)
    )
    assert verdicts(outcomes) == [Verdict.accepted]
    assert (server.mails[0].sender, server.mails[0].recipient) == ("", '"a > b"@example.org')


# ---- outcomes one by one


def test_each_outcome_is_told_once_as_it_comes_and_in_the_answer_too() -> None:
    told: dict[int, Outcome] = {}

    async def scene(esp: SmtpEsp) -> list[Outcome]:
        def settled(index: int, outcome: Outcome) -> None:
            assert index not in told
            told[index] = outcome

        sending = asyncio.create_task(
            esp.send([*mails(30), ComposedMail("", "no path", b"", False, False)], never, settled)
        )
        await until(lambda: len(told) >= 28)
        assert not sending.done()
        return await sending

    server = SmtpServer(script={"dot": [Act(b"250 2.0.0 Ok\r\n", seconds=1.0), say("550 5.7.1 Spam")]})
    outcomes, _ = play(server, scene, connections=2)
    assert [told[index] for index in range(31)] == outcomes
    assert sorted(verdicts(outcomes)) == ["accepted"] * 29 + ["failed"] * 2


def test_what_no_session_took_is_told_too() -> None:
    told: dict[int, Outcome] = {}
    outcomes, _ = play(
        SmtpServer(script={"greeting": [say_and("close", "554 5.7.1 Go away")] * 9}),
        lambda esp: esp.send(mails(3), never, told.__setitem__),
    )
    assert [told[index] for index in range(3)] == outcomes


# ---- what is kept of a reply


def test_a_reply_is_kept_without_addresses_and_bounded() -> None:
    talkative = '550-5.1.1 <reader0@example.org>: Recipient rejected (mailto:"odd one"@example.org)\n550 5.1.1 '
    outcomes, _ = play(
        SmtpServer(script={"rcpt": [say(talkative + "x" * 1_000)]}), lambda esp: esp.send(mails(1), never)
    )
    assert outcomes[0].reply.startswith("5.1.1 <[address]>: Recipient rejected")
    assert "@" not in outcomes[0].reply
    assert "odd" not in outcomes[0].reply
    assert len(outcomes[0].reply) <= 512


# ---- sessions: sharing, renewing, ending


def test_idle_sessions_are_used_again() -> None:
    async def scene(esp: SmtpEsp) -> None:
        for _ in range(5):
            assert verdicts(await esp.send(mails(1), never)) == [Verdict.accepted]

    _, server = play(SmtpServer(), scene, connections=4)
    assert server.connections == 1


def test_sessions_that_end_their_last_mails_at_once_are_all_used_again() -> None:
    server, opened = SmtpServer(), list[int]()

    async def scene(esp: SmtpEsp) -> None:
        # One that is still being opened when the last mail ends is dropped; from when all four are open, none is.
        while server.open_connections < 4 or len(opened) < 2 or opened[-2] != opened[-1]:
            assert verdicts(await esp.send(mails(8), never)) == [Verdict.accepted] * 8
            opened.append(server.connections)
        for _ in range(100):
            assert verdicts(await esp.send(mails(8), never)) == [Verdict.accepted] * 8

    play(server, scene, connections=4)
    assert server.connections == opened[-1]


class Group(list[ComposedMail]):
    """The mails of a send, which can be watched."""


@pytest.mark.parametrize("connections", [1, 4])
def test_a_send_that_is_over_keeps_no_mail_in_memory(connections: int) -> None:
    async def scene(esp: SmtpEsp) -> int:
        sent = []
        for _ in range(100):
            group = Group(mails(8))
            sent.append(weakref.ref(group))
            await esp.send(group, never)
        del group
        # The last callbacks of a send come right behind it.
        await asyncio.sleep(0)
        return sum(kept() is not None for kept in sent)

    # What only the collector finds stays for a while, and a large job has a thousand such groups.
    gc.collect()
    gc.disable()
    try:
        kept, _ = play(SmtpServer(), scene, connections=connections)
        assert kept == 0
    finally:
        gc.enable()


def test_sends_at_once_share_the_connections() -> None:
    async def scene(esp: SmtpEsp) -> list[list[Outcome]]:
        return await asyncio.gather(*(esp.send(mails(20), never) for _ in range(6)))

    results, server = play(SmtpServer(), scene, connections=2)
    assert {verdict for outcomes in results for verdict in verdicts(outcomes)} == {Verdict.accepted}
    assert len(server.mails) == 120
    assert server.most_connections == 2


def test_a_send_does_not_wait_for_connections_it_no_longer_needs() -> None:
    """One of two connections is held by a slow send; the other carries everything else at once."""

    async def scene(esp: SmtpEsp) -> None:
        slow = asyncio.create_task(esp.send(mails(1), never))
        await until(lambda: any(command.startswith("DATA") for command in server.commands))
        quick = await esp.send(mails(5), never)
        assert verdicts(quick) == [Verdict.accepted] * 5
        assert not slow.done()
        assert verdicts(await slow) == [Verdict.accepted]

    server = SmtpServer(script={"dot": [Act(b"250 2.0.0 Ok\r\n", seconds=2)]})
    play(server, scene, connections=2)


@pytest.mark.parametrize("connections", [1, 2])
def test_a_session_is_renewed_after_its_share_of_mails_and_never_beside_its_successor(connections: int) -> None:
    slow_goodbye = SmtpServer(script={"quit": [Act(b"221 2.0.0 Bye\r\n", seconds=0.05)] * 9})
    outcomes, server = play(
        slow_goodbye, lambda esp: esp.send(mails(10), never), connections=connections, mails_per_session=3
    )
    assert verdicts(outcomes) == [Verdict.accepted] * 10
    assert server.connections >= 4
    assert server.most_connections == connections


def test_a_session_carries_no_mail_after_its_time() -> None:
    """In the middle of a send, and between two."""

    async def scene(esp: SmtpEsp) -> list[Outcome]:
        long = await esp.send(mails(6), never)
        assert server.connections > 1
        await esp.send(mails(1), never)
        before = server.connections
        await asyncio.sleep(0.2)
        quick = await esp.send(mails(1), never)
        assert server.connections == before + 1
        return [*long, *quick]

    server = SmtpServer(script={"dot": [Act(b"250 2.0.0 Ok\r\n", seconds=0.1)] * 6})
    outcomes, server = play(
        server, scene, session_seconds=0.15, timeouts=Timeouts(mail=0.8, rcpt=0.8, data=0.8, block=0.8, quit=2)
    )
    assert verdicts(outcomes) == [Verdict.accepted] * 7
    assert len(server.mails) == 8


# A thousand, of which those that say nothing cost time.
@pytest.mark.parametrize(
    ("answer", "times"), [(say_and("close", "421 4.3.2 Closing"), 320), (RESET, 320), (CLOSE, 320), (HANG, 40)], ids=str
)
def test_no_answer_to_quit_ever_sends_a_mail_again(record_property: object, answer: Act, times: int) -> None:
    hand_in_claim(record_property, ClaimRow("S4", "answers to QUIT, or none, after a 250", 1000, times))
    outcomes, server = play(
        SmtpServer(script={"quit": [answer] * times}),
        lambda esp: esp.send(mails(times), never),
        connections=4,
        mails_per_session=1,
        timeouts=Timeouts(quit=0.2),
    )
    assert verdicts(outcomes) == [Verdict.accepted] * times
    assert len(server.mails) == len({received.recipient for received in server.mails}) == times
    assert server.commands.count("QUIT") > times / 2, "the cases are about QUIT"


@pytest.mark.parametrize("end", [RESET, CLOSE, say_and("close", "421 4.4.2 Idle too long")], ids=str)
def test_a_session_that_died_while_idle_costs_no_mail(end: Act) -> None:
    async def scene(esp: SmtpEsp) -> list[Outcome]:
        return [*await esp.send(mails(1), never), *await esp.send([mail(1), mail(2)], never)]

    outcomes, server = play(SmtpServer(script={"mail": [say("250 Ok"), end]}), scene)
    assert verdicts(outcomes) == [Verdict.accepted] * 3
    assert [received.recipient for received in server.mails] == [f"reader{number}@example.org" for number in range(3)]


def test_an_idle_session_ends_after_its_time() -> None:
    async def scene(esp: SmtpEsp) -> None:
        await esp.send(mails(1), never)
        await until(lambda: "QUIT" in server.commands)

    server = SmtpServer()
    play(server, scene, idle_seconds=0.05)


def test_a_server_that_drops_every_session_is_left_alone_soon() -> None:
    dropping = SmtpServer(script={"mail": [RESET] * 500})
    outcomes, server = play(dropping, lambda esp: esp.send(mails(200), never), connections=2)
    assert set(verdicts(outcomes)) == {Verdict.deferred}
    assert server.connections <= 10


# ---- no session to be had


def test_where_nobody_listens_mails_are_deferred() -> None:
    async def run() -> list[Outcome]:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            return await SmtpEsp(f"smtp://127.0.0.1:{unused.getsockname()[1]}").send(mails(3), never)

    outcomes = uvloop.run(run())
    assert verdicts(outcomes) == [Verdict.deferred] * 3
    assert {outcome.category for outcome in outcomes} == {Category.network}


@pytest.mark.parametrize(
    ("script", "code", "category"),
    [
        ({"greeting": [say("220 Hello\n250 and more")] * 9}, None, Category.network),
        ({"ehlo": [say("250 sink.example\n250 and more")] * 9}, None, Category.network),
        ({"greeting": [say_and("close", "421 4.3.2 Busy")] * 9}, 421, Category.network),
        ({"greeting": [say_and("close", "554 5.7.1 Go away")] * 9}, 554, Category.policy),
        ({"greeting": [RESET] * 9}, None, Category.network),
        ({"greeting": [say("hello there")] * 9}, None, Category.network),
        ({"greeting": [HANG] * 9}, None, Category.network),
        ({"ehlo": [say("550 5.7.1 Not you")] * 9}, 550, Category.policy),
        ({"ehlo": [CLOSE] * 9}, None, Category.network),
        ({"ehlo": [HANG] * 9}, None, Category.network),
    ],
    ids=str,
)
def test_a_session_that_cannot_be_opened_only_defers(
    script: dict[str, list[Act]], code: int | None, category: Category
) -> None:
    outcomes, server = play(
        SmtpServer(script=script),
        lambda esp: esp.send(mails(3), never),
        connections=2,
        timeouts=Timeouts(greeting=0.3, mail=0.3, quit=0.2),
    )
    assert {(outcome.verdict, outcome.code, outcome.category) for outcome in outcomes} == {
        (Verdict.deferred, code, category)
    }
    assert server.mails == []
    assert not any(command.startswith("MAIL") for command in server.commands)


def test_one_session_that_cannot_be_opened_leaves_the_mails_to_the_others() -> None:
    outcomes, server = play(
        SmtpServer(script={"greeting": [say_and("close", "421 4.7.0 Too many connections")]}),
        lambda esp: esp.send(mails(20), never),
        connections=4,
    )
    assert verdicts(outcomes) == [Verdict.accepted] * 20
    assert server.connections == 4


def test_a_server_of_the_old_school_is_greeted_with_helo() -> None:
    old = SmtpServer(script={"ehlo": [say("502 5.5.1 What?")]}, extensions=ONE_BY_ONE)
    outcomes, server = play(old, lambda esp: esp.send(mails(2), never))
    assert verdicts(outcomes) == [Verdict.accepted] * 2
    assert server.commands[1].startswith("HELO [")
