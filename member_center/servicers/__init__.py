"""The contract's three services, each mapped onto the nouns: messages in, records through, messages out."""
