"""The twin for blocking sockets and threads: it performs what the floors above decide."""
