"""The tests, by shelf.

rules       pure rules of the domain, milliseconds each
contracts   what every store and every e-mail service provider must do
rpc         a real server on a free port, through the wiring of production
journeys    a person's or a tenant's way through the whole stack
policy      what must hold of the source itself: who may import whom, what is documented, what the wheel holds
faults      kills, restarts and races
claims      what must hold against whoever means harm, as often as the claims ask for
rig         no tests: the sink, the bad network and the installation that the faults are made on
browser     pages in a real Chromium
"""
