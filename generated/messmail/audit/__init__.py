"""Generated from messmail/audit of the contract; `make generate` is its only writer."""
