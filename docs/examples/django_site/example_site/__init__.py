"""A Django site whose password-reset mail goes through smtpbackend."""
