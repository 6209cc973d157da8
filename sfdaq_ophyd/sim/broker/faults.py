"""How the services and the writers misbehave, by name."""

from __future__ import annotations

FAULTS = {
    "latency": "the reply takes `seconds` more",
    "hang": "no reply until the simulator stops; the request is never carried out",
    "drop_before": "the connection closes before the request is carried out",
    "drop_after": "the connection closes after the request is carried out",
    "garbage": "the request is carried out, the reply is HTML, or `body`, with code 200",
    "server_error": "HTTP 500",
    "refuse": "an error with `message` and `exception`; nothing is done",
    "wrong_run_number": "the reply is one too high",
    "message_broker_down": "the message broker cannot be reached",
    "close_pgroup": "`pgroup` is closed just before the next request",
    "run_info_unwritable": "the folder of run numbers cannot be written",
    "stray_meta_file": "a file too many in the run's ``meta/``, so that numbers drift",
    "trigger_stuck": "event codes are lost",
    "writer_absent": "the request to a writer vanishes",
    "writer_fails": "the writer of `source` writes an ``.err`` with `message`",
    "writer_silent": "the writer of `source` says it is finished, and there is no file",
    "missing_pulses": "`pulse_ids` did not arrive at the writer of `source`",
    "truncated_file": "the file of `source` ends half-way",
    "channels_offline": "`channels`, or the first, of `source` are left out, and the log says so",
    "power_on_fails": "a detector does not go on, with `message`",
    "pedestal_fails": "a pedestal is not taken, with `message`",
    "limping": "at once: `modules` of `detector` stop writing",
    "detector_stopped": "at once: `detector` stops",
}
"""Name and meaning of every fault; `source` is PVDATA, BSDATA, CAMERAS or a detector, default any."""

AT_ONCE = ("limping", "detector_stopped", "trigger_stuck")
"""Faults that are there as soon as they are named."""
