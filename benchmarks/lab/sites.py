"""The mail that sites send: what templates, translations and reversed URLs make of it, and no literals.

For Django a password reset as ``django.contrib.auth`` sends it, and an HTML notification; for Flask a notification.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ITEMS = [
    {"name": name, "price": price, "number": number + 1}
    for number, (name, price) in enumerate(
        [("Tea & biscuits", "12.50"), ("A blue cup", "8.00"), ("Honey <raw>", "6.75"), ("Kettle", "39.90")]
    )
]
SENDER = "The Shop <shop@example.com>"
TO = "Ann Author <ann@example.net>"

# The two languages of templates have these in common
BASE = """\
<!DOCTYPE html>
<html lang="en"><head><title>{% block title %}{% endblock %}</title><style>td { padding: 4px 12px }</style></head>
<body style="font-family: sans-serif"><h1>{{ site }}</h1>
{% block content %}{% endblock %}
<p style="color: #777">You get this mail because you ordered at {{ site }}. <a href="{{ unsubscribe }}">Stop it</a></p>
</body></html>
"""
HTML = """\
{% extends "base.html" %}{% block title %}Order {{ number }}{% endblock %}
{% block content %}<p>Good day {{ name }},</p><p>your order {{ number }} has left our house:</p>
<table>{% for item in items %}
<tr><td>{{ item.number }}</td><td>{{ item.name }}</td><td>{{ item.price }} EUR</td></tr>{% endfor %}
</table>{% endblock %}
"""
TEXT = """\
Good day {{ name }},

your order {{ number }} has left our house:
{% for item in items %}
- {{ item.number }} x {{ item.name }}, {{ item.price }} EUR{% endfor %}

You get this mail because you ordered at {{ site }}. Stop it: {{ unsubscribe }}
"""
TEMPLATES = {"base.html": BASE, "notification.html": HTML, "notification.txt": TEXT}


def context(number: int, unsubscribe: Any) -> dict[str, Any]:
    """What the templates show."""
    return {"name": "Ann", "number": number, "items": ITEMS, "site": "The Shop", "unsubscribe": unsubscribe}


# Django


def django_site(backend: str, *, more: Mapping[str, Any] | None = None, **options: Any) -> None:
    """Django as a site has it set up, its mail sent by ``backend`` with these options, named as in ``OPTIONS``.

    ``more`` are other settings; apps come beside those of each site.
    """
    import django
    from django.conf import settings
    from django.contrib import admin

    if django.VERSION >= (6, 1):
        mail: dict[str, Any] = {"MAILERS": {"default": {"BACKEND": backend, "OPTIONS": options}}}
    else:
        names = {"host": "EMAIL_HOST", "port": "EMAIL_PORT", "use_tls": "EMAIL_USE_TLS"}
        names |= {"username": "EMAIL_HOST_USER", "password": "EMAIL_HOST_PASSWORD"}
        mail = {"EMAIL_BACKEND": backend, **{names[name]: value for name, value in options.items()}}
    loaders = [
        ("django.template.loaders.locmem.Loader", TEMPLATES),
        "django.template.loaders.filesystem.Loader",
        "django.template.loaders.app_directories.Loader",
    ]
    engine = {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [Path(admin.__file__).parent / "templates"],  # it has the text of the password reset
        "OPTIONS": {"loaders": [("django.template.loaders.cached.Loader", loaders)]},
    }
    others = dict(more or {})
    settings.configure(
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", *others.pop("INSTALLED_APPS", [])],
        ROOT_URLCONF="django.contrib.auth.urls",
        TEMPLATES=[engine, *others.pop("TEMPLATES", [])],
        DEFAULT_FROM_EMAIL=SENDER,
        **mail,
        **others,
    )
    django.setup()


class _Failures(logging.Handler):
    """``django.contrib.auth`` logs a mail that was not sent, and goes on."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("a password reset was not sent") from (record.exc_info or (None, None))[1]


def reset_password(number: int) -> None:
    """Send the mail that ``django.contrib.auth.views.PasswordResetView`` sends to one user."""
    from django.contrib.auth.forms import PasswordResetForm
    from django.contrib.auth.models import User

    log = logging.getLogger("django.contrib.auth")
    if not log.handlers:
        log.addHandler(_Failures())
    user = User(pk=number, username=f"ann{number}", email="ann@example.net")
    given = {
        "email": user.email,
        "domain": "shop.example.com",
        "site_name": "The Shop",
        "uid": "MQ",
        "user": user,
        "token": f"c1x2y3-{number:032x}",
        "protocol": "https",
    }
    PasswordResetForm().send_mail(
        "registration/password_reset_subject.txt", "registration/password_reset_email.html", given, None, user.email
    )


def notification(number: int) -> Any:
    """A message of Django: its subject is translated, its bodies are templates, its header has a reversed URL."""
    from django.core.mail import EmailMultiAlternatives
    from django.template.loader import render_to_string
    from django.urls import reverse_lazy
    from django.utils.text import format_lazy
    from django.utils.translation import gettext_lazy

    unsubscribe = format_lazy("https://shop.example.com{}", reverse_lazy("password_change"))
    shown = context(number, unsubscribe)
    message = EmailMultiAlternatives(
        gettext_lazy("Your order has left"),
        render_to_string("notification.txt", shown),
        None,
        [TO],
        headers={"List-Unsubscribe": format_lazy("<{}>", unsubscribe)},
    )
    message.attach_alternative(render_to_string("notification.html", shown), "text/html")
    return message


# Flask


def flask_app(extension: Any, **config: Any) -> tuple[Any, Any]:
    """An app with these settings, and its mail by ``extension``, ``smtpbackend_flask`` or ``flask_mail``."""
    from flask import Flask
    from jinja2 import DictLoader

    app = Flask("site")
    app.jinja_loader = DictLoader(TEMPLATES)
    app.config.update(MAIL_DEFAULT_SENDER=SENDER, **config)
    return app, extension.Mail(app)


def flask_notification(extension: Any, number: int) -> Any:
    """A message of either extension, in an app context: its bodies are templates, its subject too is marked as safe."""
    from flask import render_template
    from markupsafe import Markup

    shown = context(number, Markup("https://shop.example.com/stop"))
    message = extension.Message(Markup("Your order {} has left").format(number), [TO])
    message.body = Markup(render_template("notification.txt", **shown))
    message.html = Markup(render_template("notification.html", **shown))
    return message
