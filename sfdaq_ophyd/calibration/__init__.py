"""Raw detector arrays to physical units. Arrays in, arrays out."""
