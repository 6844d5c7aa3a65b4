"""The ECP5's phase-locked loop: from an oscillator's clock to the chip's."""

import dataclasses

from waterclock.isa.errors import UserError

# Limits of the data sheet [ECP5], in Hz: at the phase detector, of the oscillator within.
DETECTOR = (3_125_000, 400_000_000)
INNER = (400_000_000, 800_000_000)
MOST = 128  #: of every divider
EXACT = 0.01  #: share of the wanted clock by which the found one may be slower


@dataclasses.dataclass(frozen=True)
class PLL:
    """Dividers of a loop whose output is its feedback."""

    clock_hz: int  #: of the input
    input_divider: int
    feedback_divider: int
    output_divider: int

    @property
    def output_hz(self) -> float:
        """What comes out."""
        return self.clock_hz * self.feedback_divider / self.input_divider

    @property
    def parameters(self) -> dict[str, int | str]:
        """Parameters of the ``EHXPLLL``."""
        return {
            "PLLRST_ENA": "DISABLED",
            "INTFB_WAKE": "DISABLED",
            "STDBY_ENABLE": "DISABLED",
            "DPHASE_SOURCE": "DISABLED",
            "FEEDBK_PATH": "CLKOP",
            "CLKI_DIV": self.input_divider,
            "CLKFB_DIV": self.feedback_divider,
            "CLKOP_ENABLE": "ENABLED",
            "CLKOP_DIV": self.output_divider,
            "CLKOP_CPHASE": self.output_divider // 2,
            "CLKOP_FPHASE": 0,
        }


def find_pll(clock_hz: int, wanted_hz: float) -> PLL:
    """Return the loop that comes nearest to a clock, and not above.

    Raises
    ------
    UserError
        When none comes within ``EXACT``.
    """
    best: PLL | None = None
    for divider in range(1, min(clock_hz // DETECTOR[0], MOST) + 1):
        feedback = min(int(wanted_hz * divider / clock_hz + 1e-9), MOST)
        if not feedback:
            continue
        found = PLL(clock_hz, divider, feedback, 1)
        output = min(int(sum(INNER) / 2 / found.output_hz), MOST)
        if not INNER[0] <= output * found.output_hz <= INNER[1]:
            continue
        if best is None or found.output_hz > best.output_hz:
            best = dataclasses.replace(found, output_divider=output)
    if best is None or best.output_hz < wanted_hz * (1 - EXACT):
        nearest = f": the next one below is {best.output_hz / 1e6:g} MHz" if best else ""
        raise UserError(
            f"clock: {wanted_hz / 1e6:g} MHz cannot be made of {clock_hz / 1e6:g} MHz{nearest}"
        )
    return best
