"""Generated from messmail/errors/v1 of the contract; `make generate` is its only writer."""
