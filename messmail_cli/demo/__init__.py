"""`messmail demo`: walks the published guide's seven steps against a real stack, and checks what really arrived.

It plays a tenant site over HTTP and a person with a mailbox; only the scene is set over gRPC, as an operator would.
"""
