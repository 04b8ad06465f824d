"""Writes docs/errors.md, the table of every error reason, from the contract and its comments.

`make generate` runs it after the stubs, which it reads the statuses from.
"""

from __future__ import annotations

from pathlib import Path

from messmail.errors.v1 import errors_pb2
from servicekit.errors import reason_status

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# Errors

Every refusal carries a reason that stays the same, so a program may branch on it. The message beside it is for people
and may change. This table is written from `proto/messmail/errors/v1/errors.proto` by `make generate`.

**Over REST** a refusal is `application/problem+json` ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)):

```json
{
  "type": "https://mail.example/docs#INVALID_FIELD",
  "title": "A field of the request is not valid.",
  "status": 400,
  "detail": "list_id: must be a valid UUID",
  "reason": "INVALID_FIELD",
  "request_id": "0f4c8a52d7e14c0f9b5a0c5d1f0e7a11",
  "violations": [{"field": "list_id", "description": "must be a valid UUID"}]
}
```

Under `/oauth/` it has the form of RFC 6749 section 5.2 instead:
`{"error": "invalid_client", "error_description": "…"}`. A `Retry-After` header, in seconds, comes with 429 and 503.

**Over gRPC** the reason is in `google.rpc.ErrorInfo` (domain `messmail`), the fields in `google.rpc.BadRequest`, the
time to wait in `google.rpc.RetryInfo`.

Tell us the request id when something is unclear: it finds every log line of the request.

| reason | HTTP | gRPC | when |
|---|---|---|---|
"""


def error_reference() -> str:
    """Returns the page; the comments come from the .proto itself, since compiled descriptors carry none."""
    comments: dict[str, str] = {}
    pending: list[str] = []
    for line in (ROOT / "proto/messmail/errors/v1/errors.proto").read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("//"):
            pending.append(text.removeprefix("//").strip())
            continue
        if text.startswith("ERROR_REASON_"):
            comments[text.split()[0]] = " ".join(pending)
        pending = []
    rows = []
    for value in errors_pb2.ErrorReason.DESCRIPTOR.values:
        if value.number:
            status = reason_status(value.number)
            rows.append(f"| `{status.name}` | {status.http} | {status.grpc_code.name} | {comments[value.name]} |\n")
    return HEAD + "".join(rows)


def main() -> None:
    """Writes the page of this checkout."""
    (ROOT / "docs" / "errors.md").write_text(error_reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
