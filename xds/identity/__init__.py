"""Bearer tokens: JSON Web Tokens are verified with the keys of configured issuers, and become identities."""
