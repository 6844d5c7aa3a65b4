"""The host's side of the host port: rows, instruction words, launch, over any register bus."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from waterclock.isa import host
from waterclock.isa.config import Config


class Bus(Protocol):
    """Reads and writes 32-bit registers of the host port."""

    async def read(self, offset: int) -> int:
        """Return a register."""
        ...

    async def write(self, offset: int, value: int) -> None:
        """Set a register."""
        ...


class Host:
    """Drives one chip through its register map (``isa/host.py``)."""

    def __init__(self, config: Config, bus: Bus):
        self.config, self.bus = config, bus
        self.words = -(-config.vector // 4)

    async def _select(self, space: host.Space, unit: int, address: int) -> None:
        select = unit << host.SELECT.field("unit").low | space << host.SELECT.field("space").low
        await self.bus.write(host.SELECT.offset, select)
        await self.bus.write(host.ADDRESS.offset, address)

    async def write_row(self, unit: int, row: int, data: bytes) -> None:
        """Store a vector in a MEM slice (hemisphere * slices + slice)."""
        await self._select(host.Space.MEM, unit, row)
        data = data.ljust(4 * self.words, b"\0")
        for word in range(self.words):
            value = int.from_bytes(data[4 * word : 4 * word + 4], "little")
            await self.bus.write(host.STAGING.offset + 4 * word, value)
        await self.bus.write(host.COMMAND.offset, host.Command.WRITE)

    async def read_row(self, unit: int, row: int, size: int) -> bytes:
        """Return the first ``size`` bytes of a vector in a MEM slice."""
        await self._select(host.Space.MEM, unit, row)
        await self.bus.write(host.COMMAND.offset, host.Command.READ)
        places = range(host.STAGING.offset, host.STAGING.offset + size, 4)
        words = [await self.bus.read(place) for place in places]
        return b"".join(word.to_bytes(4, "little") for word in words)[:size]

    async def run(self, start: int, done: Callable[[], Awaitable[None]]) -> int:
        """Launch at word ``start``, wait for ``done``, and return the cycles that the run took.

        Raises
        ------
        RuntimeError
            When the chip reports an error.
        """
        await self.bus.write(host.START.offset, start)
        await self.bus.write(host.CONTROL.offset, 1)
        await done()
        while not await self.bus.read(host.STATUS.offset) >> host.STATUS.field("done").low & 1:
            pass
        error = await self.bus.read(host.ERROR.offset)
        if error:
            raise RuntimeError(f"the chip reports an error: {host.Error(error)!r}")
        low = await self.bus.read(host.CYCLES_LOW.offset)
        return low | await self.bus.read(host.CYCLES_HIGH.offset) << 32
