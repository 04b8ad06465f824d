"""Generated from messmail/send_engine/v1 of the contract; `make generate` is its only writer."""
