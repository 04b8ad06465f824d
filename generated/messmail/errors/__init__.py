"""Generated from messmail/errors of the contract; `make generate` is its only writer."""
