"""The example site, and beside it what the tests need: a record of what became of each mail."""
