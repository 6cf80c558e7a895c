"""Energy that others have measured: a wattmeter beside ours, and logs of AIPowerMeter."""
