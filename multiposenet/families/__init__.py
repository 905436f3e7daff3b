"""Families of methods, one file each: their builders, and how they look at pictures in use and in training."""
