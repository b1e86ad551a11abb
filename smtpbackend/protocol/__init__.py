"""The conversation with a server, written once as plain generators: no socket, no clock, no thread lives here."""
