"""Generated from messmail of the contract; `make generate` is its only writer."""
