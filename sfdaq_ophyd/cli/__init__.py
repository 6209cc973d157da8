"""The command ``sfdaq``."""
