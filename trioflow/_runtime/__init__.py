"""The rules that every pattern shares: calls of user code, contexts, events, errors, and how a run ends."""
