"""Generated from messmail/member_center of the contract; `make generate` is its only writer."""
