"""Generated from messmail/audit/v1 of the contract; `make generate` is its only writer."""
