"""Member Center: who wants which list.

oauth          clients, their secrets and their access tokens
revocations    access tokens that are ended before their time
signing_keys   the keys that sign access tokens, and the key set that verifies them
tenants        the customers of the installation
lists          what people subscribe to
consent        the rules: how a subscription changes, and when it does not
subscriptions  asking, confirming and ending, each with its line in the consent log
preferences    what a confirmed person prefers
imports        members that a tenant brings along
suppressions   addresses that a tenant must not mail
address_hashes what is kept of such an address
complaints     a person reported a mail as unwanted
people         all that is known of one person, to be shown or erased
links          sealed links: what they carry and allow
link_keys      the keys that seal them
outbox         confirmation mails that wait for Send Engine
audience       who may be mailed, page by page and at the moment of sending
origins        whose pages may call for a list, as an operator writes them
cross_origin   whether pages of an origin may call
limits         how much is allowed
login_limits   how often the authentication of a client may fail
counting       counts, and the store that may not answer
snapshot       values that are read again every few seconds
records        what the nouns speak of
servicers/     the contract's three services, mapped onto the nouns
storage/       tables, statements, revisions
wiring         settings, and the process that serves all this

Member Center calls no other service.
"""
