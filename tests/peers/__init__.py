"""The meter beside its peers, on the same fake machine, through the same script."""
