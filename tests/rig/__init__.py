"""What tests and benchmarks hold the product against.

sink        a strict SMTP server, a process of its own, that writes down what it takes before it says so
proxy       a TCP proxy with latency, cuts, resets, silence and slow drip
"""
