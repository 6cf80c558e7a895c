"""How a proposal is scored: the objective protocol, the plain closure behind it, and its guards."""
