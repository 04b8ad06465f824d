"""Where the stack listens: a taken default moves, an asked port does not."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from local_stack.errors import StackError
from local_stack.ports import Address, AddressTakenError, bind, choose, free_address


@pytest.fixture
def taken() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Address(*listener.getsockname())


def test_a_free_default_is_kept() -> None:
    default = str(free_address())
    with closing(choose(None, default)) as chosen:
        assert (str(chosen.address), chosen.moved_from) == (default, None)


def test_a_taken_default_moves_to_a_free_port_and_says_from_where(taken: Address) -> None:
    with closing(choose(None, str(taken))) as chosen:
        assert chosen.moved_from == taken
        assert chosen.address.host == taken.host
        assert chosen.address.port != taken.port


def test_two_stacks_that_choose_in_the_same_moment_never_get_one_default() -> None:
    default = free_address()
    with closing(choose(None, str(default))) as first, closing(choose(None, str(default))) as second:
        assert first.address == default
        assert second.moved_from == default
        assert second.address != default
    with closing(choose(None, str(default))) as later:
        assert later.address == default


def test_an_asked_port_that_is_taken_is_an_error_although_it_is_the_default(taken: Address) -> None:
    with pytest.raises(AddressTakenError, match=f"{taken} is taken by another program"):
        choose(str(taken), default=str(taken))


def test_port_zero_asks_for_any_free_port() -> None:
    with closing(choose("127.0.0.1:0", default="127.0.0.1:8080")) as chosen:
        assert chosen.address.port > 0


def test_a_server_can_listen_on_a_chosen_port_and_again_after_a_restart() -> None:
    with closing(choose("127.0.0.1:0", default="127.0.0.1:8080")) as chosen:
        for _ in range(2):
            with socket.create_server((chosen.address.host, chosen.address.port)), pytest.raises(AddressTakenError):
                bind(chosen.address)


@pytest.mark.parametrize(
    "text",
    ["8080", ":8080", "localhost", "localhost:", "localhost:80a", "localhost:65536", "a:-1", "[::1:80", "::1]:80"],
)
def test_what_is_no_address_is_refused_in_words(text: str) -> None:
    with pytest.raises(StackError, match="HOST:PORT"):
        Address.parse(text)


def test_an_address_is_written_as_it_is_read() -> None:
    for text in ("127.0.0.1:1025", "[::1]:8080", "localhost:0"):
        assert str(Address.parse(text)) == text


def test_a_host_of_another_machine_is_an_error() -> None:
    with pytest.raises(StackError, match=r"Cannot listen on 192\.0\.2\.1:8080"):
        choose("192.0.2.1:8080", default="127.0.0.1:8080")


def test_all_interfaces_are_reached_through_the_loopback() -> None:
    assert str(Address.parse("0.0.0.0:8080").reachable) == "127.0.0.1:8080"
    assert str(Address.parse("[::]:8080").reachable) == "[::1]:8080"
    assert str(Address.parse("10.0.0.7:8080").reachable) == "10.0.0.7:8080"
