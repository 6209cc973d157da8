"""Say what there is."""

if session.facility is not None:
    facility = session.facility
print(session.report())
