"""The example that sends spans and metrics over the wire, and the tree that arrives."""

import re

import pytest

pytest.importorskip("h11", reason="the collector is built on h11: demo group")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the exporter is in the tests group")

from telemetry import QUESTIONS, main


async def test_what_is_opened_anywhere_arrives_in_one_tree():
    lines = []
    collector = await main(lines.append)
    shown = [re.sub(r" \d+ ms", "", line) for line in lines]
    assert shown.count("parallel") == 1
    assert shown.count("  task") == len(QUESTIONS) - 1
    assert shown.count("  task, task.retry") == 1
    assert shown.count("    send librarian") == len(QUESTIONS) + 1
    assert shown.count("      process librarian") == len(QUESTIONS) + 1
    assert shown.count("        look up") == len(QUESTIONS) + 1
    assert len({span.trace_id for span in collector.spans}) == 1
    assert {"trioflow.run.duration", "trioflow.call.duration", "trioflow.retries", "messaging.process.duration"} <= (
        collector.metrics
    )
    assert lines[-1].startswith("metrics: messaging.client.sent.messages, ")
