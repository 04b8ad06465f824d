"""Measurements. Each prints ratios against a baseline of the same run and saves them under bench/results/.

distance     `make bench-distance`: one SMTP connection over 50 ms against aiosmtplib's
http_load    a small closed-loop HTTP client: as many requests as a number of connections can carry
installation a whole installation to measure, started by `messmail up`
machine      what machine a result comes from
processes    CPU seconds and memory of processes
report       medians, a table, and the JSON file
rest         `make bench`: requests through the gateway against bare INSERT+COMMIT
send         `make bench-send`: a whole send job against Postfix's smtp-source
sketch       the least that a subscribe could be, to hold the real one against
size         `make bench-size`: what a mail costs in a large job against one in a small job
smtp_load    Postfix's smtp-sink and smtp-source, and a loop of aiosmtplib
"""
