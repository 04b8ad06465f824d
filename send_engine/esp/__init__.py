"""E-mail service providers: `port` says what an adapter owes, `smtp` is the adapter for SMTP relays."""
