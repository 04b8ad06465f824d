"""What became of each mail of a send job: read page by page, and written as a table or as CSV (RFC 4180)."""

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from messmail.send_engine.v1 import send_engine_pb2 as pb2
from messmail.send_engine.v1 import send_engine_pb2_grpc
from messmail_cli.printing import facts_of, table

PAGE_SIZE: Final = 1000
_COLUMNS: Final = tuple(pb2.Delivery.DESCRIPTOR.fields_by_name)
_SHOWN: Final = 100


def read(
    send_engine: send_engine_pb2_grpc.SendEngineStub, request: pb2.ListDeliveriesRequest
) -> Iterator[dict[str, Any]]:
    """Yields the deliveries that a request asks for, of all pages, as facts."""
    while True:
        page = send_engine.ListDeliveries(request)
        for delivery in page.deliveries:
            state = pb2.DeliveryState.Name(delivery.state).removeprefix("DELIVERY_STATE_").lower()
            yield facts_of(delivery) | {"state": state}
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def write_csv(file: Path, deliveries: Iterator[dict[str, Any]]) -> int:
    """Writes deliveries into a file, with a heading, and returns how many."""
    count = 0
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, _COLUMNS)
        writer.writeheader()
        for delivery in deliveries:
            writer.writerow(delivery)
            count += 1
    return count


def as_table(deliveries: list[dict[str, Any]]) -> Table:
    """Lays the first deliveries out as a table."""
    rows = ([str(delivery.get(column) or "") for column in _COLUMNS] for delivery in islice(deliveries, _SHOWN))
    laid_out = table([column.replace("_", " ") for column in _COLUMNS], rows)
    if len(deliveries) > _SHOWN:
        laid_out.caption = f"The first {_SHOWN} of {len(deliveries):,}: --csv writes them all."
    return laid_out
