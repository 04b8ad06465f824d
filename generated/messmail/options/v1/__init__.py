"""Generated from messmail/options/v1 of the contract; `make generate` is its only writer."""
