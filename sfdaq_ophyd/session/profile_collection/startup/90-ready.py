"""Suspenders of sfdaq.yaml; %wa, %mov, %ct, %devices, %doctor; and what there is."""

from IPython import get_ipython

from sfdaq_ophyd.session.magics import register_magics

globals().update(session.install_suspenders(globals()))  # plans that close the shutter are not held by it
register_magics(get_ipython(), session)

if session.facility is not None:
    facility = session.facility
print(session.report())
