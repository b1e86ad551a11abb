"""What users of four older systems rely on, a test for each behaviour: the table is in README.md beside this file."""
