"""Generated from messmail/options of the contract; `make generate` is its only writer."""
