"""The rules that hold in every pattern, written once: calls, contexts, events, errors, and how a run ends."""
