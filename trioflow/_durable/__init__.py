"""How a run is kept: step by step, item by item."""
