"""The outbox beside django-mailer and django-post-office: each module is one measurement."""
