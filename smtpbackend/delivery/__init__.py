"""The decisions: which server, which connection, what next. The time is an argument; nothing here does I/O."""
