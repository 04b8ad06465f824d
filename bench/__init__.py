"""Measurements. Each prints ratios against a baseline of the same run and saves them under bench/results/.

http_load    a small closed-loop HTTP client: as many requests as a number of connections can carry
machine      what machine a result comes from
report       medians, a table, and the JSON file
rest         `make bench`: requests through the gateway against bare INSERT+COMMIT
"""
