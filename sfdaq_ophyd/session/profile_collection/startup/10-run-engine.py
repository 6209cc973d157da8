"""What runs plans, and what listens to it."""

RE = session.RE
sd = session.sd
bec = session.bec
catalog = session.catalog
