import os

if "LEASE" in os.environ:  # in seconds; before what reads it is loaded
    from smtpbackend.outbox import schedule

    schedule.LEASE = float(os.environ["LEASE"])
    schedule.RENEW = schedule.LEASE / 3
    schedule.MARGIN = schedule.LEASE / 6
