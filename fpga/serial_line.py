"""A serial port as the line of a ``LinkClient``."""

import contextlib
import os

import serial

from waterclock.isa.errors import UserError

BAUD = 1_000_000
WRITE_SECONDS = 10.0  #: for a frame; a port that takes nothing is given up
#: What a port raises that is gone; SerialException is an OSError.
GONE: tuple[type[Exception], ...] = (OSError,)
with contextlib.suppress(ImportError):  # not everywhere
    import termios

    GONE += (termios.error,)


class SerialLine:
    """A serial port, opened.

    Raises
    ------
    UserError
        By the constructor when there is no such port, by the methods when it is gone.
    """

    def __init__(self, port: str, baud: int = BAUD):
        self.name = port
        try:
            self._port = serial.Serial(port, baud, timeout=0, write_timeout=WRITE_SECONDS)
        except (*GONE, ValueError) as error:
            number = getattr(error, "errno", None)
            reason = os.strerror(number) if number else str(error)
            raise UserError(f"{port}: cannot be opened as a serial port: {reason}") from None

    def write(self, data: bytes) -> None:
        """Send bytes."""
        try:
            self._port.write(data)
            self._port.flush()
        except GONE as error:
            raise self._gone(error) from None

    def read(self, timeout: float) -> bytes:
        """Return what arrived; wait at most ``timeout`` seconds for a first byte."""
        try:
            self._port.timeout = timeout
            first = self._port.read(1)
            return first + self._port.read(self._port.in_waiting)
        except GONE as error:
            raise self._gone(error) from None

    def close(self) -> None:
        """Close the port."""
        self._port.close()

    def _gone(self, error: Exception) -> UserError:
        return UserError(f"{self.name}: the port is gone ({error}): is the cable plugged in?")
