"""Who may call, over which connection, and how much: certificates, keys and what callers may use."""
