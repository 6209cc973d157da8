"""ophyd devices: thin, and alike."""
