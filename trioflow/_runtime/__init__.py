"""The rules that hold in every pattern, written once: calls, groups, events, live values."""
