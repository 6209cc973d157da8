"""Bytes and JSON to typed values and back. No sockets, files or clocks."""
