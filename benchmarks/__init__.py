"""Measurements in seconds, for people to read: no test depends on them. `make bench` runs all of them."""
