"""Generated from messmail/member_center/v1 of the contract; `make generate` is its only writer."""
