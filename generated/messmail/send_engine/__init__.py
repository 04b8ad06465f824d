"""Generated from messmail/send_engine of the contract; `make generate` is its only writer."""
