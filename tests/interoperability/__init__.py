"""The same ten messages through every server, in every TLS mode, with every login, by both mailers."""
