"""Suspenders of sfdaq.yaml; plans that close the shutter themselves are not held by it."""

globals().update(session.install_suspenders(globals()))
