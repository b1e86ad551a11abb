"""Real servers for the tests: each on free loopback ports, all that it needs in a temporary folder."""
