"""Generated from buf/validate of the contract; `make generate` is its only writer."""
