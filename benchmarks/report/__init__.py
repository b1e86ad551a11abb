"""From benchmarks/results.json to docs/performance.md and its charts. Nothing is measured here."""
