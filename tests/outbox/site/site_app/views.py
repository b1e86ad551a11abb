"""What a site does with mail and with its database. Each answer says which process gave it."""

from __future__ import annotations

import os

from asgiref.sync import sync_to_async
from django.contrib.auth.forms import PasswordResetForm
from django.contrib.auth.models import User
from django.core.mail import send_mail, send_mass_mail
from django.db import transaction
from django.http import HttpRequest, JsonResponse

from smtpbackend import Mailer, Message

from .models import Order


def ping(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"pid": os.getpid()})


def order(request: HttpRequest) -> JsonResponse:
    """`?to=&number=&fail=`: an order and its mail in one transaction; with fail=1 it is rolled back after the mail."""
    number = request.GET.get("number", "1")
    with transaction.atomic():
        made = Order.objects.create(number=number)
        send_mail(f"Order {number}", "Thank you.", None, [request.GET["to"]])
        if request.GET.get("fail") == "1":
            raise RuntimeError(f"order {number} fails after its mail")
    return JsonResponse({"pid": os.getpid(), "order": made.pk})


async def aorder(request: HttpRequest) -> JsonResponse:
    """The same in an async view."""
    return await sync_to_async(order)(request)


def direct(request: HttpRequest) -> JsonResponse:
    """`?to=&port=`: a mail past the outbox, by a mailer that lives as long as the process."""
    global mailer
    mailer = mailer or Mailer(f"smtp://127.0.0.1:{request.GET['port']}?tls=none")
    mailer.send(Message(subject="Hello", from_="site@example.com", to=request.GET["to"], text="Text"))
    return JsonResponse({"pid": os.getpid()})


mailer: Mailer | None = None


def mass(request: HttpRequest) -> JsonResponse:
    """`?to=&to=&catch=`: an order and a mail to each; with catch=1 a wrong address is no failure of the order."""
    made = Order.objects.create(number="1")
    try:
        send_mass_mail(("Order", "Thank you.", None, [to]) for to in request.GET.getlist("to"))
    except ValueError:
        if request.GET.get("catch") != "1":
            raise
    return JsonResponse({"pid": os.getpid(), "order": made.pk})


def reset(request: HttpRequest) -> JsonResponse:
    """`?to=`: Django's password reset, for a user who is made if there is none."""
    to = request.GET["to"]
    with transaction.atomic():
        User.objects.get_or_create(username=to, defaults={"email": to, "password": "usable"})
        form = PasswordResetForm({"email": to})
        if not form.is_valid():
            return JsonResponse(form.errors, status=400)
        form.save(request=request)
    return JsonResponse({"pid": os.getpid()})


def write(request: HttpRequest) -> JsonResponse:
    """Read, then write: on SQLite such a transaction may fail if another one has written between."""
    with transaction.atomic():
        count = Order.objects.count()
        made = Order.objects.create(number=f"after {count}")
    return JsonResponse({"pid": os.getpid(), "order": made.pk})
