"""Durable runs: saved step by step, or item by item."""
