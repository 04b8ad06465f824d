"""What `messmail up` needs and production does not: engines from wheels, a process supervisor, a development mailbox.

Nothing in here is imported by a service; a production process starts alone and finds its engines by URL.
"""
