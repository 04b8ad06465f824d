"""The fault proxy does to a connection what its weather says, and nothing else."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.rig.proxy import BLACK_HOLE, Ending, FaultProxy, Weather, fault_proxy


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that says back what it hears."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with closing(connection):
            try:
                while heard := connection.recv(65536):
                    connection.sendall(heard)
            except OSError:
                pass

    def accept() -> None:
        try:
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
        except OSError:
            pass

    threading.Thread(target=accept, daemon=True).start()
    host, port = listener.getsockname()
    yield f"{host}:{port}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def connect(proxy: FaultProxy) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def read(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        piece = connection.recv(size - len(got))
        if not piece:
            break
        got += piece
    return got


def test_in_clear_weather_every_byte_comes_back_in_order(echo: str) -> None:
    sent = bytes(range(256)) * 4096
    with fault_proxy(echo) as proxy, connect(proxy) as connection:
        writer = threading.Thread(target=connection.sendall, args=(sent,))
        writer.start()
        assert read(connection, len(sent)) == sent
        writer.join()
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_a_round_trip_takes_its_time_but_a_stream_pays_it_once(echo: str) -> None:
    sent = b"x" * 200_000
    with fault_proxy(echo, Weather(round_trip=0.1)) as proxy, connect(proxy) as connection:
        began = time.monotonic()
        connection.sendall(sent[:1])
        assert read(connection, 1) == b"x"
        assert time.monotonic() - began >= 0.1
        began = time.monotonic()
        for start in range(0, len(sent), 10_000):
            connection.sendall(sent[start : start + 10_000])
        assert read(connection, len(sent)) == sent
        assert 0.1 <= time.monotonic() - began < 1.0


@pytest.mark.parametrize("ending", [Ending.RESET, Ending.CLOSE])
def test_a_cut_lets_exactly_so_many_bytes_through(echo: str, ending: Ending) -> None:
    with fault_proxy(echo, Weather(cut_after_received=10, ending=ending)) as proxy, connect(proxy) as connection:
        connection.sendall(b"0123456789abcdef")
        if ending is Ending.CLOSE:
            assert read(connection, 16) == b"0123456789"
        else:
            with pytest.raises(ConnectionResetError):
                # What was under way may be discarded with a reset, but no more than so many bytes ever come.
                assert len(read(connection, 16)) <= 10
                connection.recv(1)
        assert proxy.cuts == 1


def test_a_black_hole_swallows_everything_and_tells_nobody(echo: str) -> None:
    with fault_proxy(echo) as proxy, connect(proxy) as connection:
        connection.sendall(b"before")
        assert read(connection, 6) == b"before"
        proxy.weather = BLACK_HOLE
        connection.sendall(b"after")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_a_slow_drip_comes_bit_by_bit(echo: str) -> None:
    with fault_proxy(echo, Weather(bytes_per_second=2_000)) as proxy, connect(proxy) as connection:
        began = time.monotonic()
        connection.sendall(b"x" * 400)
        assert connection.recv(400) != b"x" * 400
        read(connection, 300)
        assert time.monotonic() - began >= 0.15


def test_all_open_connections_can_be_reset_at_once(echo: str) -> None:
    with fault_proxy(echo) as proxy, connect(proxy) as one, connect(proxy) as other:
        for connection in (one, other):
            connection.sendall(b"x")
            assert read(connection, 1) == b"x"
        assert proxy.reset_all() == 2
        for connection in (one, other):
            with pytest.raises(ConnectionResetError):
                connection.recv(1)


def test_a_proxy_whose_connections_are_cut_while_they_come_about_still_ends(echo: str) -> None:
    for _ in range(100):
        with fault_proxy(echo, Weather(cut_after_sent=0)) as proxy:
            for turn in range(10):
                with connect(proxy) as connection:
                    connection.sendall(b"cut at once")
                    if turn % 3 == 0:
                        proxy.reset_all()
