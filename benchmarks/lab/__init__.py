"""What measurements share. Nothing here knows what is measured."""
