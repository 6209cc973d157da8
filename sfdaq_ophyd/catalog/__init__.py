"""The way to the data: a Tiled catalog of our own."""
