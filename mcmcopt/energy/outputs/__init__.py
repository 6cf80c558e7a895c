"""A report for people and for other programs: text, CSV, Prometheus, a figure, Weights & Biases, grams of CO2."""
