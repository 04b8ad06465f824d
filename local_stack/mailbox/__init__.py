"""The development mailbox: takes every mail by SMTP, delivers none, and shows them over HTTP.

It stands in for an e-mail service provider, strictly: what a careful relay would refuse, it refuses.
"""
