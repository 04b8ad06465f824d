"""What developers run through the Makefile: generating stubs, bundling the contract, installing locked packages.

Nothing here ships in the wheel.
"""
