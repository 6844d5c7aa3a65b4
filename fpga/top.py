"""The top of a board: clock, reset, host link, chip, lights."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In, Out

from waterclock.fpga.link import HostLink
from waterclock.fpga.pll import PLL
from waterclock.isa.config import Config
from waterclock.rtl.chip import chip_ports
from waterclock.rtl.emit import TOP, convert
from waterclock.rtl.part import instance

BOARD_TOP = "waterclock_board"  #: name of the board's module
LINK = "host_link"  #: name of the link's module
CHIP = "chip"  #: name of the chip's instance


class BoardTop(wiring.Component):
    """Everything in the FPGA.

    Parameters
    ----------
    config : Config
        Of the chip.
    pll : PLL
        From the oscillator to the chip's clock.
    baud : int
        Bits a second on the serial line.
    inverted : collection of str
        Outputs for which low means one.

    Members
    -------
    clk : In(1)
        The oscillator.
    rx, tx : In(1), Out(1)
        The serial line.
    running, error : Out(1)
        Lights: a program is under way; a unit found a broken promise since the last launch.
    """

    clk: In(1)
    rx: In(1)
    tx: Out(1)
    running: Out(1)
    error: Out(1)

    def __init__(self, config: Config, pll: PLL, baud: int, inverted: tuple[str, ...] = ()):
        self.pll, self.inverted = pll, inverted
        self.link = HostLink(config, round(pll.output_hz / baud))
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        locked = Signal()
        m.domains.sync = ClockDomain()
        m.submodules.pll = Instance(
            "EHXPLLL",
            **{f"p_{name}": value for name, value in self.pll.parameters.items()},
            # What nextpnr derives the chip's clock from.
            a_FREQUENCY_PIN_CLKI=f"{self.pll.clock_hz / 1e6:g}",
            a_FREQUENCY_PIN_CLKOP=f"{self.pll.output_hz / 1e6:g}",
            # The loop filter, as the vendor's tools set it for a feedback of the output.
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            i_CLKI=self.clk,
            i_CLKFB=ClockSignal(),
            i_RST=C(0),
            i_STDBY=C(0),
            i_PHASESEL0=C(0),
            i_PHASESEL1=C(0),
            i_PHASEDIR=C(1),
            i_PHASESTEP=C(1),
            i_PHASELOADREG=C(1),
            i_PLLWAKESYNC=C(0),
            i_ENCLKOP=C(0),
            o_CLKOP=ClockSignal(),
            o_LOCK=locked,
        )
        m.submodules.reset = ResetSynchronizer(~locked)
        link = instance(m, LINK, self.link, "link")
        chip = instance(m, TOP, wiring.PureInterface(wiring.Signature(chip_ports())), CHIP)
        for name, member in chip_ports().items():
            if name.startswith("s_axil"):
                ours, theirs = chip[name], link[name.replace("s_axil", "m_axil")]
                m.d.comb += ours.eq(theirs) if member.flow is In else theirs.eq(ours)
        m.d.comb += [link["rx"].eq(self.rx), self.tx.eq(link["tx"])]

        was_running, broken = Signal(), Signal()
        m.d.sync += was_running.eq(chip["running"])
        m.d.sync += broken.eq(broken & (was_running | ~chip["running"]) | chip["error"])
        for light, lit in {"running": chip["running"], "error": broken}.items():
            m.d.comb += getattr(self, light).eq(~lit if light in self.inverted else lit)
        return m

    def verilog(self) -> dict[str, str]:
        """Return the Verilog of top and link by file name; that of the chip belongs to it."""
        parts = {LINK: self.link, BOARD_TOP: self}
        return {f"{name}.v": convert(part, name) for name, part in parts.items()}
