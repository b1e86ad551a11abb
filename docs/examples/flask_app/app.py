"""A Flask app that notifies people by mail and says what became of each of them.

FLASK_MAIL_SERVER=localhost FLASK_MAIL_PORT=1025 flask --app docs/examples/flask_app/app.py run
curl localhost:5000/notify --json '{"subject": "Deployed", "text": "1.2 is live.", "recipients": ["ann@example.com"]}'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask, jsonify, render_template, request
from flask.typing import ResponseReturnValue

from smtpbackend import DeliveryError, InvalidInput, Outcome, Receipt
from smtpbackend_flask import Mail, Message, message_sent, recipient_rejected

mail = Mail()


def create_app(settings: Mapping[str, Any] | None = None) -> Flask:
    """The app. Settings come from variables FLASK_MAIL_* and FLASK_SMTPBACKEND_*, or from ``settings``."""
    app = Flask(__name__)
    app.config["MAIL_DEFAULT_SENDER"] = ("Notifier", "notifier@example.com")
    app.config.from_prefixed_env()
    app.config.from_mapping(settings or {})
    mail.init_app(app)
    message_sent.connect(log_sent, sender=app)
    recipient_rejected.connect(log_rejected, sender=app)
    app.add_url_rule("/notify", view_func=notify, methods=["POST"])
    return app


def notify() -> ResponseReturnValue:
    """Send a notification to the recipients in the JSON body. Who may post here may write to anybody: add a login."""
    wanted = request.get_json()
    try:
        message = Message(wanted["subject"], recipients=wanted["recipients"])
        message.body = render_template("notification.txt", text=wanted["text"])
        message.html = render_template("notification.html", text=wanted["text"])
        receipt = mail.send(message)
    except KeyError as error:
        return jsonify(error=f"{error} is missing"), 400
    except InvalidInput as error:
        return jsonify(error=str(error), field=error.field), 400
    except DeliveryError as error:
        return jsonify(error=str(error), **as_json(error.receipt)), 503 if error.is_transient else 502
    return jsonify(as_json(receipt))


def as_json(receipt: Receipt | None) -> dict[str, Any]:
    """What became of each recipient."""
    if receipt is None:
        return {}
    return {
        "message_id": receipt.message_id,
        "recipients": {
            str(outcome.address): {
                "status": outcome.status.value,
                "server": outcome.server,
                "said": str(outcome.reply or outcome.error or ""),
            }
            for outcome in receipt.outcomes
        },
    }


def log_sent(app: Flask, receipt: Receipt, **_: Any) -> None:
    app.logger.info("%s was accepted for %d of %d", receipt.message_id, len(receipt.accepted), len(receipt.outcomes))


def log_rejected(app: Flask, outcome: Outcome, **_: Any) -> None:
    app.logger.warning("%s was rejected: %s", outcome.address, outcome.reply)
