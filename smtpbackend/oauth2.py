"""OAuth 2.0 access tokens for the setting ``token``: providers that fetch them, keep them and renew them in time.

    from smtpbackend.oauth2 import google

    mailer = Mailer("smtp://smtp.gmail.com:587", username="ann@example.org", token=google(client_id, secret, refresh))

docs/howto/oauth2.md has Gmail and Microsoft 365 step by step.
"""

from smtpbackend.delivery.credentials import (
    ClientCredentials,
    Grant,
    Provider,
    RefreshToken,
    google,
    microsoft365,
    microsoft365_app,
)

__all__ = ["ClientCredentials", "Grant", "Provider", "RefreshToken", "google", "microsoft365", "microsoft365_app"]
