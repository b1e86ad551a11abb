"""Threads, forks, servers that fall and rise again: whatever happens, what is said of each message is true."""
