"""The `messmail` command: starts the processes of an installation, and administers one over gRPC.

It imports the services' `wiring` only to serve them. Everything else it does as any internal caller would.
"""
