"""Who may use the push API, and for what: callers, their rights, tokens, identities, and the audit log."""
