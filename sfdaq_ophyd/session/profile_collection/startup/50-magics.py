"""%wa, %mov, %ct, %devices, %doctor."""

from IPython import get_ipython

from sfdaq_ophyd.session.magics import register_magics

register_magics(get_ipython(), session)
