"""The host port in Verilator, driven by cocotbext-axi, with a small chip behind it."""

import dataclasses
import logging
import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge, with_timeout
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from waterclock.isa import Config, host, load_config, queues
from waterclock.isa.host import Access, Command, Error, Register, Space
from waterclock.rtl.emit import convert
from waterclock.rtl.host import HostPort
from waterclock.sim import verilator

SEED = "COCOTB_RANDOM_SEED"
CASE = "WATERCLOCK_TEST_CASE"
PERIOD = 10  # ns
LIMIT = 200_000  # cycles a test may take
ACCESSES = 5_000

#: (superlanes, lanes): a vector of one instruction word, and one that ends within a register.
CASES = {"nano": (1, 8), "odd": (3, 5)}


def configuration(case: str) -> Config:
    """Return the configuration of a case."""
    superlanes, lanes = CASES[case]
    nano = load_config("nano")
    return dataclasses.replace(
        nano, name=case, superlanes=superlanes, lanes=lanes, load_streams=1, slices=8, rows=16,
        wide=False, turns=1, imem_words_of=(),
    )  # fmt: skip


class Chip:
    """What stands behind the port: memories, a run of some length, broken promises.

    Checks that every strobe lasts one cycle and keeps its distance from the one before.
    """

    def __init__(self, dut, config: Config, rng: random.Random) -> None:
        self.dut, self.config, self.rng = dut, config, rng
        self.memory: dict[tuple[int, int, int], int] = {}
        self.cycle, self.last_strobe = 0, -host.READ_LATENCY
        self.answers: dict[int, int] = {}
        self.launches: list[int] = []
        self.wait, self.length, self.next_length = 0, 0, 1
        self.settle, self.signature = 0, 0
        self.running_cycles = 0  # of the last or current run
        self.errors = 0  # to report in the next cycle

    async def work(self) -> None:
        """Act in every cycle."""
        dut, bits = self.dut, host.window_bits(self.config)
        while True:
            await FallingEdge(dut.clk)
            self.cycle += 1
            write, read = int(dut.write.value), int(dut.read.value)
            if write or read:
                assert not (write and read), "write and read at once"
                assert self.cycle - self.last_strobe >= host.READ_LATENCY
                assert not self.busy, "a strobe while running"
                self.last_strobe = self.cycle
                place = tuple(int(p.value) for p in (dut.space, dut.unit, dut.address))
                if write:
                    self.memory[place] = int(dut.write_data.value)
                else:
                    self.answers[self.cycle + host.READ_LATENCY] = self.memory.get(place, 0)
            if dut.launch.value:
                assert not self.busy, "launch while running"
                self.launches.append(int(dut.start.value))
                self.running_cycles, self.wait = 0, self.rng.randrange(1, 5)
                self.length, self.settle = self.next_length, self.rng.randrange(5)
                self.signature = self.rng.getrandbits(32)
            elif self.wait:
                self.wait -= 1
            elif self.length:
                self.length -= 1
            elif self.settle:
                self.settle -= 1
            running = self.length > 0 and not self.wait
            self.running_cycles += running
            dut.running.value = int(running)
            settling = self.settle > 0 and not self.wait
            dut.settling.value = int(settling)
            # Whatever it is before all has settled.
            steady = not (running or settling)
            dut.signature_value.value = self.signature if steady else self.rng.getrandbits(32)
            dut.errors.value, self.errors = self.errors, 0
            dut.read_data.value = self.answers.pop(self.cycle, self.rng.getrandbits(bits))

    @property
    def busy(self) -> bool:
        """Whether a launched run has not ended."""
        return self.wait > 0 or self.length > 0 or self.settle > 0


async def answers_are_held(dut) -> None:
    """Check that an answer stays as it is until it is taken."""
    ports = [
        (dut.s_axil_bvalid, dut.s_axil_bready, [dut.s_axil_bresp]),
        (dut.s_axil_rvalid, dut.s_axil_rready, [dut.s_axil_rresp, dut.s_axil_rdata]),
    ]
    pending: list[list[int] | None] = [None, None]
    while True:
        await FallingEdge(dut.clk)
        for index, (valid, ready, payload) in enumerate(ports):
            now = [int(port.value) for port in payload] if valid.value else None
            assert pending[index] in (None, now), "an answer changed before it was taken"
            pending[index] = None if ready.value else now


class Host:
    """A model of the registers, and the AXI master that reads and writes the real ones."""

    def __init__(self, dut, config: Config, chip: Chip) -> None:
        self.config, self.chip = config, chip
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.values = {r.name: r.value(config) for r in host.REGISTERS}
        self.staging = bytearray(4 * host.staging_words(config))
        self.accesses = 0

    async def write(self, offset: int, data: bytes) -> None:
        """Write up to a register's bytes; expect SLVERR where nothing can be written."""
        answer = await self.master.write(offset, data)
        self.accesses += 1
        legal = writable(self.config, offset)
        assert answer.resp == (AxiResp.OKAY if legal else AxiResp.SLVERR), f"write 0x{offset:03X}"

    async def read(self, offset: int) -> int:
        """Read a register; expect SLVERR and zero where there is none."""
        answer = await self.master.read(offset & ~3, 4)
        self.accesses += 1
        legal = register_at(self.config, offset) is not None
        assert answer.resp == (AxiResp.OKAY if legal else AxiResp.SLVERR), f"read 0x{offset:03X}"
        value = int.from_bytes(answer.data, "little")
        assert legal or not value
        return value

    async def put(self, register: Register, value: int) -> None:
        """Write a whole register and note the value."""
        await self.write(register.offset, value.to_bytes(4, "little"))
        if register.access is Access.BOTH:
            mask = sum((1 << f.bits) - 1 << f.low for f in register.fields)
            self.values[register.name] = value & mask

    async def stage(self, data: bytes) -> None:
        """Fill staging registers, in the order and with the strobes of chance."""
        at = 0
        while at < len(data):
            size = min(self.chip.rng.randrange(1, 9), len(data) - at)
            await self.write(host.STAGING.offset + at, data[at : at + size])
            at += size
        self.staging[: len(data)] = data

    async def staged(self) -> bytes:
        """Return all staging registers."""
        answer = await self.master.read(host.STAGING.offset, len(self.staging))
        assert answer.resp == AxiResp.OKAY
        return bytes(answer.data)

    async def error(self) -> Error:
        """Read ERROR and clear what was set; STATUS must say the same."""
        status = await self.read(host.STATUS.offset)
        found = await self.read(host.ERROR.offset)
        assert (status >> host.STATUS.field("error").low & 1) == (found != 0)
        await self.write(host.ERROR.offset, found.to_bytes(4, "little"))
        assert await self.read(host.ERROR.offset) == 0
        return Error(found)

    async def command(self, command: Command) -> None:
        """Give a command that will be obeyed, and follow it in the model."""
        await self.put(host.COMMAND, command)
        place = (self.values["SELECT"] >> 16, self.values["SELECT"] & 0xFFFF)
        memory, row = self.chip.memory, self.values["ADDRESS"]
        bits = host.window_bits(self.config)
        if command is Command.WRITE:
            expected = int.from_bytes(self.staging, "little") & (1 << bits) - 1
            assert memory[(*place, row)] == expected
        else:
            data = memory.get((*place, row), 0)
            self.staging[:] = data.to_bytes(len(self.staging), "little")
            assert await self.staged() == bytes(self.staging)
        self.values["ADDRESS"] = row + 1
        assert await self.read(host.ADDRESS.offset) == row + 1

    async def finish(self) -> None:
        """Wait for the end of a run; check status and cycles."""
        while (status := await self.read(host.STATUS.offset)) & 3 != 1:
            assert status & 7 == 2, "running, not idle, not done"
        assert status & 7 == 5, "idle and done"
        low = await self.read(host.CYCLES_LOW.offset)
        assert await self.read(host.CYCLES_HIGH.offset) == 0
        assert low == self.chip.running_cycles > 0
        assert await self.read(host.SIGNATURE.offset) == self.chip.signature


def register_at(config: Config, offset: int) -> Register | None:
    """Return the register of a byte offset."""
    for register in host.REGISTERS:
        words = register.words(config) if register.words else 1
        if register.offset <= offset < register.offset + 4 * words:
            return register
    return None


def writable(config: Config, offset: int) -> bool:
    """Tell whether a write to an offset is answered with OKAY."""
    register = register_at(config, offset)
    return register is not None and register.access is not Access.READ


async def start(dut) -> tuple[Chip, Host, random.Random]:
    """Reset the port and put a chip behind and a host with random back-pressure before it."""
    rng = random.Random(cocotb.RANDOM_SEED)
    config = configuration(os.environ[CASE])
    dut._log.info("seed %d", cocotb.RANDOM_SEED)
    logging.getLogger(f"cocotb.{dut._name}.s_axil").setLevel(logging.WARNING)
    for port in (dut.running, dut.settling, dut.signature_value, dut.errors, dut.read_data):
        port.value = 0
    chip = Chip(dut, config, rng)
    model = Host(dut, config, chip)

    def pauses(seed: int):
        chance = random.Random(seed)
        share = chance.choice([0.0, 0.3, 0.7])
        while True:
            yield chance.random() < share

    for part in (model.master.write_if, model.master.read_if):
        for name in ("aw_channel", "w_channel", "b_channel", "ar_channel", "r_channel"):
            if hasattr(part, name):
                getattr(part, name).set_pause_generator(pauses(rng.getrandbits(32)))
    dut.rst.value = 1
    cocotb.start_soon(Clock(dut.clk, PERIOD, "ns").start())
    for _ in range(4):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    cocotb.start_soon(chip.work())
    cocotb.start_soon(answers_are_held(dut))
    return chip, model, rng


def limited(test):
    """Give a test a limit of cycles."""

    async def within(dut) -> None:
        await with_timeout(test(dut), LIMIT * PERIOD, "ns")

    within.__name__ = within.__qualname__ = test.__name__
    return cocotb.test()(within)


@limited
async def reset_values_are_those_of_the_map(dut) -> None:
    _, model, _ = await start(dut)
    for register in host.REGISTERS:
        expected = model.values[register.name]
        assert await model.read(register.offset) == expected, register.name
    identity = await model.master.read(host.MAGIC.offset, 4)
    assert bytes(identity.data) == b"WCLK"
    by_name = {r.name: r for r in host.REGISTERS}
    for name in ("superlanes", "lanes", "streams", "slices", "rows", "planes", "imem_words"):
        expected = getattr(model.config, name)
        assert await model.read(by_name[name.upper()].offset) == expected
    assert await model.read(by_name["QUEUES"].offset) == len(queues(model.config))


@limited
async def addresses_that_cannot_be_accessed_answer_slverr(dut) -> None:
    chip, model, _ = await start(dut)
    for offset in range(0, 1 << host.ADDRESS_BITS, 4):
        await model.read(offset)
        register = register_at(model.config, offset)
        if register is None or register.access is Access.READ:
            await model.write(offset, bytes(4))
    assert not chip.launches
    assert not chip.memory
    assert await model.error() == Error(0)


async def move(model: Host, rng: random.Random) -> None:
    """Write or read a row or word somewhere, or fail to."""
    config = model.config
    space = rng.choice(list(Space))
    units, depth = (
        (2 * config.slices, config.depth)
        if space is Space.MEM
        else (len(queues(config)), config.imem_words)
    )
    unit, address = rng.randrange(units), rng.choice([0, 1, rng.randrange(depth), depth - 1])
    beyond = rng.random()
    unit = units if beyond < 0.05 else unit
    address = depth if 0.05 <= beyond < 0.1 else address
    await model.put(host.SELECT, space << 16 | unit)
    await model.put(host.ADDRESS, address)
    for _ in range(rng.randrange(1, 4)):
        command = rng.choice(list(Command))
        if command is Command.WRITE:
            await model.stage(rng.randbytes(rng.randrange(1, len(model.staging) + 1)))
        if unit == units or model.values["ADDRESS"] == depth:
            strobes = model.chip.last_strobe
            await model.put(host.COMMAND, command)
            assert model.chip.last_strobe == strobes
            assert await model.error() == Error.HOST
            return
        await model.command(command)


async def launch(model: Host, rng: random.Random) -> None:
    """Launch, and try what is refused while running."""
    chip, pc = model.chip, rng.randrange(1 << host.PC_BITS)
    await model.put(host.START, pc)
    before = len(chip.launches)
    chip.next_length = rng.choice([1, rng.randrange(1, 40), 500])
    await model.put(host.CONTROL, 1)
    assert chip.launches[before:] == [pc]
    if chip.next_length == 500:  # long enough for an access
        strobes = chip.last_strobe
        await model.put(*rng.choice([(host.CONTROL, 1), (host.COMMAND, 1), (host.COMMAND, 2)]))
        assert (len(chip.launches), chip.last_strobe) == (before + 1, strobes)
        assert await model.error() == Error.HOST
    await model.finish()


async def strobes(model: Host, rng: random.Random) -> None:
    """Write single bytes of a register, or try what does nothing."""
    choice = rng.randrange(3)
    if choice == 0:
        register = rng.choice([host.START, host.ADDRESS, host.SELECT])
        value, first = rng.getrandbits(32).to_bytes(4, "little"), rng.randrange(4)
        last = rng.randrange(first, 4) + 1
        await model.write(register.offset + first, value[first:last])
        mask = sum((1 << f.bits) - 1 << f.low for f in register.fields)
        old = model.values[register.name].to_bytes(4, "little")
        new = old[:first] + value[first:last] + old[last:]
        model.values[register.name] = int.from_bytes(new, "little") & mask
        assert await model.read(register.offset) == model.values[register.name]
    elif choice == 1:
        await model.write(host.COMMAND.offset, b"\x03")
        assert await model.error() == Error.HOST
    else:  # byte 0, which would launch or move, is not strobed
        await model.write(rng.choice([host.CONTROL, host.COMMAND]).offset + 1, bytes(3))
        assert await model.error() == Error(0)


async def breaking(model: Host, rng: random.Random) -> None:
    """Let the chip break promises; the causes stay until cleared, one by one."""
    causes = rng.randrange(1, 1 << host.CAUSES)
    model.chip.errors = causes
    for _ in range(3):
        await RisingEdge(model.chip.dut.clk)
    cleared = rng.randrange(1 << host.CAUSES)
    assert await model.read(host.ERROR.offset) == causes
    await model.write(host.ERROR.offset, bytes([cleared]))
    assert await model.error() == Error(causes & ~cleared)


@limited
async def random_accesses_agree_with_the_model(dut) -> None:
    chip, model, rng = await start(dut)
    while model.accesses < ACCESSES:
        await rng.choice([move, launch, strobes, breaking])(model, rng)
    assert len(chip.launches) > 5
    assert len(chip.memory) > 20
    dut._log.info("%d accesses, %d cycles", model.accesses, chip.cycle)


@limited
async def write_data_may_come_before_its_address(dut) -> None:
    _, model, _ = await start(dut)
    for first, second in (("aw", "w"), ("w", "aw")):
        channels = model.master.write_if
        late = getattr(channels, f"{second}_channel")
        late.clear_pause_generator()
        getattr(channels, f"{first}_channel").clear_pause_generator()
        late.pause = True
        write = cocotb.start_soon(model.put(host.START, 0x1234))
        for _ in range(20):
            await RisingEdge(dut.clk)
        await ReadOnly()
        assert not getattr(dut, f"s_axil_{first}ready").value, "one is taken"
        assert getattr(dut, f"s_axil_{second}ready").value, "the other awaited"
        assert not dut.s_axil_bvalid.value
        await RisingEdge(dut.clk)
        late.pause = False
        await write
        assert await model.read(host.START.offset) == 0x1234
        await model.put(host.START, 0)


@limited
async def cycles_can_be_read_while_they_are_counted(dut) -> None:
    chip, model, _ = await start(dut)
    chip.next_length = 2000
    await model.put(host.CONTROL, 1)
    seen = []
    for _ in range(20):
        low = await model.read(host.CYCLES_LOW.offset)
        assert low <= chip.running_cycles
        seen.append(await model.read(host.CYCLES_HIGH.offset) << 32 | low)
    assert seen == sorted(set(seen))
    await model.finish()


@pytest.mark.parametrize("case", CASES)
def test_host_port_agrees_with_its_register_map(case: str) -> None:
    port = HostPort(configuration(case))
    source = convert(port, "host_port")
    simulator = verilator.build({"host_port.v": source}, "host_port")
    seed = int(os.environ.get(SEED, "1"))
    print(verilator.run(simulator, "test_host_cosim", seed=seed, extra_env={CASE: case}))
