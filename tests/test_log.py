import logging

from sfdaq_ophyd.log import config_sfdaq_logging


def test_config_when_called_twice_then_one_handler_and_the_file_has_the_line(tmp_path):
    logger = logging.getLogger("sfdaq_ophyd")
    before, level = list(logger.handlers), logger.level
    try:
        config_sfdaq_logging("DEBUG")
        handler = config_sfdaq_logging("INFO", tmp_path / "log")
        assert [h for h in logger.handlers if h not in before] == [handler]
        logging.getLogger("sfdaq_ophyd.wire").info("armed %s", "eiger")
        handler.flush()
        assert "sfdaq_ophyd.wire: armed eiger" in (tmp_path / "log").read_text()
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(level)
