"""The Django backend, on whichever Django is installed."""
