"""Experiments: which arms, on which data, in which folder; and the figures that they leave behind."""
