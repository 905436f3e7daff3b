"""How pictures become network input and poses come back, one file a way of looking at pictures."""
