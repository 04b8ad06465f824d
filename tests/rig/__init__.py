"""What tests and benchmarks hold the product against: a network that misbehaves when it is told to.

proxy       a TCP proxy with latency, cuts, resets, silence and slow drip
"""
