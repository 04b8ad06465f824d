"""Send Engine: turns one send job into a mail for every confirmed recipient and can say what became of each.

send_jobs      making, reading, listing, pausing, cancelling and watching jobs
idempotency    answering the same request again as the first time
job_states     the states of a job and who changes them
planning       writing down the audience of a job
rounds         sending a completed job again to some of its audience
deliveries     the ledger: claim, mark, record, release
sending        one batch, group by group: mark, ask for consent, compose, send, record
confirmations  the confirmation mails that wait in Member Center
trials         sending a mail over which workers were lost in a process of its own
delivery_pages what became of each delivery, page by page
person_deliveries  one person in the ledger, to be shown or made nobody's
unknowns       settling deliveries whose fate is unknown
recipients     asking Member Center: lists, audiences, consent
composing/     mails as bytes
esp/           handing mails to the provider
esp_accounts   whose mail leaves through which relay
pacing         how many rows are sent at a time, and which have to wait
send_limits    limits on mails a second, as an operator sets and sees them
permits        what limits and throttled domains allow this worker now
error_budget   what share of a job's mails may be refused before it is paused
throttles      which replies ask us to slow down
account_flow   how an ESP account takes mail: how many at a time, and whether at all
lanes          how many batches of each kind a worker carries out at a time
passed_by      tenants whose mail this worker cannot get out just now
mail_loop      the event loop of a worker's SMTP connections
actors         the doorbell
sweeper        finding due and lapsed work when no bell rang
records        what the nouns speak of
servicer       the contract's services, mapped onto the nouns
storage/       tables, statements, revisions
wiring         settings, and the processes that serve and work

Who may be mailed is Member Center's to say.
"""
