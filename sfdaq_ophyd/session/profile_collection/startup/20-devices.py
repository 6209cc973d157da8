"""Every device of sfdaq.yaml, under its name. Nothing is contacted here."""

globals().update(session.devices)
