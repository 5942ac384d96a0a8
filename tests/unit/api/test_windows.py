"""How much a peer may send before it was taken: a plain h2 client in front of our connection."""

from __future__ import annotations

import h2.config
import h2.connection
import pytest

from api.rpc.codec import PREFIX
from api.rpc.connection import Connection
from api.rpc.events import MessageReceived
from api.rpc.windows import FEW, Windows
from tests.support.wire import CALL

WIDTH = 8000
WIDEST = 30_000


class Sender:
    """A client that sends what its window allows, and a server that has these windows."""

    def __init__(self) -> None:
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.server = Connection(client_side=False, windows=Windows(WIDTH, 2**20, WIDEST))
        self.server.initiate_connection()
        self.client.initiate_connection()
        self.messages: list[MessageReceived] = []
        self.flow()

    def flow(self) -> None:
        """The bytes of both come to the other."""
        events = self.server.receive_data(self.client.data_to_send())
        self.messages += [event for event in events if isinstance(event, MessageReceived)]
        self.client.receive_data(self.server.data_to_send())

    def begin(self) -> int:
        stream_id: int = self.client.get_next_available_stream_id()
        self.client.send_headers(stream_id, CALL)
        self.flow()
        return stream_id

    def send(self, stream_id: int, data: bytes) -> bytes:
        """As much as the window has room for; what is left."""
        room = min(self.client.local_flow_control_window(stream_id), self.client.max_outbound_frame_size, len(data))
        self.client.send_data(stream_id, data[:room])
        self.flow()
        return data[room:]

    def take(self) -> None:
        """All that is here."""
        for message in self.messages:
            self.server.acknowledge_received_data(message.stream_id, message.flow_controlled_length)
        self.messages.clear()
        self.flow()

    def widths(self, stream_ids: list[int], times: int) -> list[int]:
        """How wide each window is when so many messages, each of half a window, were sent and taken on each."""
        half = PREFIX.pack(False, WIDTH // 2 - PREFIX.size) + bytes(WIDTH // 2 - PREFIX.size)
        for _ in range(times):
            for stream_id in stream_ids:
                assert not self.send(stream_id, half)
            self.take()
        return [self.client.local_flow_control_window(stream_id) for stream_id in stream_ids]


@pytest.fixture
def sender() -> Sender:
    return Sender()


def message(size: int) -> bytes:
    return PREFIX.pack(False, size) + bytes(size)


@pytest.mark.parametrize("take_first", [False, True])
def test_a_window_that_is_shut_gives_back_what_was_taken_however_little_it_was(
    sender: Sender, take_first: bool
) -> None:
    """A small message is taken, and its window is not worth an update yet; then comes one that has room but for its
    last bytes. It cannot be taken before they are here: whoever waits for more to be taken waits for ever."""
    stream_id = sender.begin()
    assert not sender.send(stream_id, message(500))
    if take_first:
        sender.take()
    rest = sender.send(stream_id, message(WIDTH - 300))
    assert len(rest) == 500 - 300 + 2 * PREFIX.size
    if not take_first:
        sender.take()
    assert sender.send(stream_id, rest) == b""
    assert [event.flow_controlled_length for event in sender.messages] == [WIDTH - 300 + PREFIX.size]


def test_the_window_of_a_stream_that_is_taken_from_grows(sender: Sender) -> None:
    """To twice its width each time that all of it was taken, and no wider than is allowed."""
    widths = [sender.widths([stream_id], times)[0] for stream_id in [sender.begin()] for times in (1, 1, 4, 20)]
    assert widths[0] <= WIDTH < widths[1] <= 2 * WIDTH < widths[2] <= WIDEST
    assert WIDEST // 2 < widths[3] <= WIDEST


def test_where_there_are_many_streams_no_window_grows(sender: Sender) -> None:
    """A thousand that are not taken from any more had a window's worth taken from each."""
    stream_ids = [sender.begin() for _ in range(FEW + 1)]
    assert max(sender.widths(stream_ids, 20)) <= WIDTH


def test_a_window_from_which_nothing_is_taken_stays_shut(sender: Sender) -> None:
    """The client keeps the rest."""
    stream_id = sender.begin()
    left = b"".join(message(1000) for _ in range(20))
    while len(rest := sender.send(stream_id, left)) < len(left):
        left = rest
    assert len(left) == 20 * (1000 + PREFIX.size) - WIDTH
    assert sender.client.local_flow_control_window(stream_id) == 0
