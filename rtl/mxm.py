# amaranth: UnusedElaboratable=no
"""The MXM plane: instances of the parts that compute, wired.

    streams -> MXMFeed -> deskew -> MXMLanes -> MACTile -> MXMLanes -> skew -> result

A vector is skewed: superlane k is k cycles behind superlane 0. The feeds take the vectors of LW
and ABL off the streams, skewed; all else, the core, works on whole vectors, S - 1 cycles after the
issue at superlane 0.

The plane of the full-size chip has more ports than Amaranth converts at once, so the parts are
converted one by one, and ``MXMPlane`` goes into the chip as a submodule.
"""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from waterclock.isa.config import Config
from waterclock.isa.spec import word_bits
from waterclock.rtl.mxm_core import (
    FEED_QUEUES,
    QUEUES,
    MXMCore,
    core_parts,
    result_ports,
)
from waterclock.rtl.mxm_feed import MXMFeed
from waterclock.rtl.mxm_tile import BYTE
from waterclock.rtl.part import instance


def mxm_parts(config: Config) -> dict[str, wiring.Component]:
    """Return what a plane needs instances of, by the name that it has to be converted with."""
    return {"mxm_feed": MXMFeed(config), "mxm_core": MXMCore(config)} | core_parts(config)


class MXMPlane(wiring.Component):
    """One plane: feeds and core, wired.

    Parameters
    ----------
    config : Config
        Geometry.

    Members
    -------
    lw_in, iw_in, abl_in, abc_in, acc_in : In(word bits)
        What the five queues issue next; zero for nothing.
    outward : In(1)
        A constant: the ``Direction`` in which streams flow to this plane.
    stream_{k} : In(streams * lanes * 8)
        Outward register of superlane k of the MXM's column.
    result_valid_{k}, result_dst_{k}, result_{k} : Out(1), Out(6), Out(4 * lanes * 8)
        What superlane k's column is driven with: whether, the code of the first stream, and the
        bytes of four streams.
    error : Out(1)
        A promise was broken by a word issued in the cycle before.

    Timing
    ------
    A word given in one cycle is issued in the next, t. A result is at the outputs of superlane k
    in cycle t + ``acc_latency`` - 1 + k, and in the column's register in the cycle after.
    """

    def __init__(self, config: Config):
        self.config = config
        ports: dict[str, In | Out] = {
            f"{queue}_in": In(word_bits(kind)) for queue, kind in QUEUES.items()
        }
        for k in range(config.superlanes):
            ports[f"stream_{k}"] = In(config.streams * config.lanes * BYTE)
        super().__init__(ports | result_ports(config) | {"outward": In(1), "error": Out(1)})

    def elaborate(self, platform):
        m = Module()
        parts = mxm_parts(self.config)
        core = instance(m, "mxm_core", parts["mxm_core"], "core")
        feeds = [
            instance(m, "mxm_feed", parts["mxm_feed"], f"feed_{k}")
            for k in range(self.config.superlanes)
        ]
        for k, feed in enumerate(feeds):
            m.d.comb += feed["streams"].eq(getattr(self, f"stream_{k}"))
            for name in ("weights", "activations"):
                m.d.comb += core[f"{name}_{k}"].eq(feed[name])
            if k == 0:
                for queue in FEED_QUEUES:
                    m.d.comb += core[f"{queue}_in"].eq(feed[f"{queue}_out"])
            for queue in FEED_QUEUES:
                before = feeds[k - 1][f"{queue}_out"] if k else getattr(self, f"{queue}_in")
                m.d.comb += feed[f"{queue}_in"].eq(before)
                m.d.comb += core[f"{queue}_{k}"].eq(feed[f"{queue}_late"])
        for name, member in self.signature.members.items():
            if name in core and name.removesuffix("_in") not in FEED_QUEUES:
                inner, outer = core[name], getattr(self, name)
                m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        return m
