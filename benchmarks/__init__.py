"""What is promised about speed, measured beside the peers: `make bench`. No test depends on a time that is taken here.

Each module of this folder answers one question: its ``measure`` returns figures by name. What they have in common is in
``lab``: the delay, the servers, the environments of the peers, and samples. ``report`` has the goals, and writes
docs/performance.md and its charts from results.json; no figure is copied by hand.
"""
