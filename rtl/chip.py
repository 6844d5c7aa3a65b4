"""The chip: every slice on the floor plan, the queues that drive them, and the host port.

Everything that repeats is an instance of a part that is converted once (``chip_parts``), so that
the full-size chip is the same few modules as the small one.
"""

from amaranth import *
from amaranth.lib import wiring
from amaranth.utils import exact_log2

from waterclock.isa import floorplan
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere, queues
from waterclock.isa.spec import WORD_BITS
from waterclock.isa.streams import ID_BITS
from waterclock.rtl.column import StreamColumn
from waterclock.rtl.drive import Drive, drive_streams
from waterclock.rtl.host import HostPort, axi_lite
from waterclock.rtl.icu import ICUQueue
from waterclock.rtl.mem import MEMTile, followed, tile_id
from waterclock.rtl.mem_group import MEMGroup
from waterclock.rtl.mxm import MXMPlane, mxm_parts
from waterclock.rtl.mxm_lanes import RESULT_STREAMS
from waterclock.rtl.part import Nets, any_of, instance
from waterclock.rtl.signature import RunSignature
from waterclock.rtl.sram import IMEM_ID
from waterclock.rtl.sxm import SXM, sxm_parts
from waterclock.rtl.vxm import vxm_parts

Words = dict[tuple[str, Hemisphere | None, int], Value]


def chip_parts(config: Config) -> dict[str, wiring.Component]:
    """Return everything that is converted once, by module name."""
    kinds = dict.fromkeys(queue.kind for queue in queues(config))
    return {
        **{f"icu_{kind}": ICUQueue(kind, config) for kind in kinds},
        "mem_tile": MEMTile(config),
        **_groups(config),
        "stream_column": StreamColumn(config),
        **vxm_parts(config),
        **mxm_parts(config),
        **(sxm_parts(config) if config.sxm else {}),
        "signature": RunSignature(config),
        "host_port": HostPort(config),
    }


def group_part(config: Config, side: Hemisphere) -> str:
    """Return the name of the part that a hemisphere's groups of MEM slices are."""
    shared = config.paths < 2 * config.streams
    return f"mem_group_{side.name.lower()}" if shared else "mem_group"


def _groups(config: Config) -> dict[str, MEMGroup]:
    """Return the parts that groups of MEM slices are: where paths are shared the side matters."""
    if config.paths == 2 * config.streams:
        return {"mem_group": MEMGroup(config)}
    return {group_part(config, side): MEMGroup(config, side.outward) for side in Hemisphere}


def chip_ports() -> dict[str, wiring.Member]:
    """Return the ports of a chip: they depend on no configuration."""
    return axi_lite("s_axil") | {"running": wiring.Out(1), "error": wiring.Out(1)}


class Chip(wiring.Component):
    """The whole chip behind one AXI4-Lite subordinate port.

    Parameters
    ----------
    config : Config
        Geometry.

    Members
    -------
    s_axil_*
        The host port, see ``HostPort``.
    running : Out(1)
        A program is under way: high for as many cycles as the program takes.
    error : Out(1)
        A unit found a broken promise a few cycles ago.
    """

    def __init__(self, config: Config):
        self.config = config
        self.parts = chip_parts(config)
        super().__init__(chip_ports())

    def elaborate(self, platform):
        m = Module()
        self.errors: dict[str, list[Value]] = {
            unit: [] for unit in ("mem", "vxm", "mxm", "sxm", "icu")
        }
        host = instance(m, "host_port", self.parts["host_port"], "host")
        for name, member in self.signature.members.items():
            if name.startswith("s_axil"):
                port = getattr(self, name)
                m.d.comb += host[name].eq(port) if member.flow is wiring.In else port.eq(host[name])
        words = self._queues(m, host)
        signature = instance(m, "signature", self.parts["signature"], "signature")
        m.d.comb += [
            signature["launch"].eq(host["launch"]),
            signature["running"].eq(self.running),
            host["signature_value"].eq(signature["value"]),
            host["settling"].eq(signature["settling"]),
        ]
        east, west = self._columns()
        self._memory(m, host, signature, words, east, west)
        self._vxm(m, words, east, west)
        self._edges(m, words, east, west)
        for index, found in enumerate(self.errors.values()):
            m.d.sync += host["errors"][index].eq(Cat(found).any())
        m.d.comb += self.error.eq(host["errors"].any())
        return m

    def _queues(self, m: Module, host: Nets) -> Words:
        """Place the queues; return each one's word by (kind, hemisphere, unit)."""
        config = self.config
        notify, busy, was_busy = Signal(), Signal(), Signal()
        words, notifies, halted, read = {}, [], [], []
        for queue in queues(config):
            if queue.leader is not None:
                continue
            chosen = Signal(name=f"chosen_{queue.index}")
            # The host names a memory some cycles before it uses it.
            m.d.sync += chosen.eq(host["space"] & (host["unit"] == queue.index))
            nets = instance(
                m,
                f"icu_{queue.kind}",
                self.parts[f"icu_{queue.kind}"],
                queue.name.replace(".", "_").lower(),
                {
                    "launch": host["launch"],
                    "start": host["start"],
                    "notify": notify,
                    "host_en": chosen & (host["read"] | host["write"]),
                    "host_we": host["write"],
                    "host_addr": host["address"],
                    "host_wdata": host["write_data"],
                    "id": IMEM_ID + queue.index,
                },
            )
            # Memory, choice and sum take most of a cycle; the way to the unit has its own.
            word = Signal(len(nets["word"]), name=f"word_{queue.index}")
            m.d.sync += word.eq(nets["word"])
            words[queue.kind, queue.hemisphere, queue.unit] = word
            notifies.append(nets["notify_out"])
            halted.append(nets["halted"])
            self.errors["icu"].append(nets["error"])
            read.append(Mux(chosen, nets["host_rdata"], 0))
        m.d.comb += [notify.eq(Cat(notifies).any()), busy.eq(~Cat(halted).all())]
        # A queue is at work two cycles before the units hold what it issues: cycle 0 is theirs.
        m.d.sync += [was_busy.eq(busy), self.running.eq(busy & was_busy)]
        m.d.comb += host["running"].eq(self.running)
        self.imem_data = Signal(WORD_BITS)
        m.d.sync += self.imem_data.eq(any_of(read))
        return words

    def _columns(self) -> tuple[list[list[Signal]], list[list[Signal]]]:
        """Return the stream registers, eastward and westward, by superlane and column."""
        config = self.config
        width = config.streams * config.lanes * 8
        return tuple(
            [
                [Signal(width, name=f"{way}_{k}_{x}") for x in range(floorplan.columns(config))]
                for k in range(config.superlanes)
            ]
            for way in ("east", "west")
        )  # type: ignore[return-value]

    def _neighbours(self, east: list[Signal], west: list[Signal], x: int) -> dict[str, Value]:
        """Return the upstream registers of column ``x``; nothing flows in over the edges."""
        width = len(east[x])
        return {
            "east_in": east[x - 1] if x else C(0, width),
            "west_in": west[x + 1] if x + 1 < len(west) else C(0, width),
        }

    def _memory(
        self,
        m: Module,
        host: Nets,
        signature: Nets,
        words: Words,
        east: list[list[Signal]],
        west: list[list[Signal]],
    ) -> None:
        """Place the MEM slices, a group and a superlane at a time."""
        config = self.config
        width = config.lanes * 8
        found: list[list[Value]] = [[] for _ in range(config.superlanes)]
        every = 2 * config.streams
        for side in Hemisphere:
            for group in range(config.groups):
                first = group * config.group
                x = floorplan.mem_column(config, side, first)
                chosen = Signal(config.group, name=f"host_{side.name[0].lower()}{group}")
                for i in range(config.group):
                    unit = int(side) * config.slices + first + i
                    m.d.sync += chosen[i].eq(~host["space"] & (host["unit"] == unit))
                # From the host port it is far: what it does has a cycle for the way.
                access, writes = Signal.like(chosen), Signal(name=f"host_writes_{chosen.name}")
                row = Signal(len(host["address"]), name=f"row_{chosen.name}", reset_less=True)
                m.d.sync += [
                    access.eq(Mux(host["read"] | host["write"], chosen, 0)),
                    writes.eq(host["write"]),
                    row.eq(host["address"]),
                ]
                nets: Nets = {}
                for k in range(config.superlanes):
                    before = nets
                    nets = instance(
                        m,
                        group_part(config, side),
                        self.parts[group_part(config, side)],
                        f"mem_{side.name[0].lower()}{group}_{k}",
                        {
                            **self._neighbours(east[k], west[k], x),
                            "host_en": access,
                            "host_we": writes,
                            "host_addr": row,
                            "host_wdata": host["write_data"][k * width : (k + 1) * width],
                            **({"outward": int(side.outward)} if config.paths == every else {}),
                            "id": tile_id(config, k, int(side), first),
                        },
                    )
                    for i in range(config.group):
                        for port in ("read", "write"):
                            leader = first if config.wide else first + i
                            word = words[f"mem_{port}", side, leader]
                            if config.wide and not k:
                                word = followed(m, word, f"mem_{port}", i)
                            m.d.comb += nets[f"{port}{i}_in"].eq(
                                before[f"{port}{i}_out"] if before else word
                            )
                    m.d.comb += [east[k][x].eq(nets["east"]), west[k][x].eq(nets["west"])]
                    found[k].append(Mux(chosen.any(), nets["host_rdata"], 0))
                    column = int(side) * config.groups + group
                    m.d.comb += signature[f"sum_{k}_{column}"].eq(nets["sum"])
                    self.errors["mem"].append(nets["error"])
        vectors = Signal(config.vector * 8)
        m.d.sync += vectors.eq(Cat(any_of(values) for values in found))
        m.d.comb += host["read_data"].eq(Mux(host["space"], self.imem_data, vectors))

    def _vxm(
        self, m: Module, words: Words, east: list[list[Signal]], west: list[list[Signal]]
    ) -> None:
        """Place the VXM: a tile a superlane, and what reduces across them."""
        config = self.config
        x = floorplan.vxm_column(config)
        alus = range(len(config.alus))
        reduce_word = words["reduce", None, len(config.alus)]
        reducer = instance(m, "vxm_reducer", self.parts["vxm_reducer"], "reducer")
        nets: Nets = {}
        for k in range(config.superlanes):
            before = nets
            nets = instance(
                m,
                "vxm_tile",
                self.parts["vxm_tile"],
                f"vxm_{k}",
                self._neighbours(east[k], west[k], x),
            )
            for i in alus:
                word = before[f"alu{i}_out"] if before else words["alu", None, i]
                m.d.comb += nets[f"alu{i}_in"].eq(word)
            m.d.comb += nets["reduce_in"].eq(before["reduce_out"] if before else reduce_word)
            m.d.comb += [east[k][x].eq(nets["east"]), west[k][x].eq(nets["west"])]
            m.d.comb += [
                reducer[f"word_{k}"].eq(nets["reduce_out"]),
                reducer[f"operand_{k}"].eq(nets["reduce_operand"]),
                nets["reduce_valid"].eq(reducer[f"valid_{k}"]),
                nets["reduce_target"].eq(reducer[f"target_{k}"]),
                nets["reduce_result"].eq(reducer[f"result_{k}"]),
            ]
            self.errors["vxm"].append(nets["error"])
        self.errors["vxm"].append(reducer["error"])

    def _edges(
        self, m: Module, words: Words, east: list[list[Signal]], west: list[list[Signal]]
    ) -> None:
        """Place each hemisphere's SXM and MXM, and the columns that they read and drive."""
        for side in Hemisphere:
            letter = side.name[0].lower()
            if self.config.sxm:
                x = floorplan.sxm_column(self.config, side)
                columns = [
                    self._column(m, f"sxm_column_{letter}", k, x, east, west)
                    for k in range(self.config.superlanes)
                ]
                self._sxm(m, side, letter, words, columns)
            self._mxm(m, side, letter, words, east, west)

    def _column(
        self,
        m: Module,
        name: str,
        k: int,
        x: int,
        east: list[list[Signal]],
        west: list[list[Signal]],
    ) -> Nets:
        """Place one superlane of a column whose unit is not in the tile."""
        column = instance(
            m,
            "stream_column",
            self.parts["stream_column"],
            f"{name}_{k}",
            self._neighbours(east[k], west[k], x),
        )
        m.d.comb += [east[k][x].eq(column["east"]), west[k][x].eq(column["west"])]
        return column

    def _sxm(
        self,
        m: Module,
        side: Hemisphere,
        letter: str,
        words: Words,
        columns: list[Nets],
    ) -> None:
        m.submodules[f"sxm_{letter}"] = sxm = SXM(self.config)
        for kind in floorplan.SXM_KINDS:
            m.d.comb += getattr(sxm, kind.removeprefix("sxm_")).eq(words[kind, side, 0])
        for k, column in enumerate(columns):
            for way in ("east", "west"):
                m.d.comb += getattr(sxm, f"{way}_{k}").eq(column[way])
                for bus in (f"{way}_valid", f"{way}_data"):
                    m.d.comb += column[bus].eq(getattr(sxm, f"{bus}_{k}"))
        self.errors["sxm"].append(sxm.error)

    def _mxm(
        self,
        m: Module,
        side: Hemisphere,
        letter: str,
        words: Words,
        east: list[list[Signal]],
        west: list[list[Signal]],
    ) -> None:
        config, x = self.config, floorplan.mxm_column(self.config, side)
        planes: list[MXMPlane] = []
        for number in range(config.planes):
            m.submodules[f"mxm_{letter}{number}"] = plane = MXMPlane(config)
            m.d.comb += plane.outward.eq(int(side.outward))
            for kind in floorplan.MXM_KINDS:
                word = getattr(plane, f"{kind.removeprefix('mxm_')}_in")
                m.d.comb += word.eq(words[kind, side, number])
            self.errors["mxm"].append(plane.error)
            planes.append(plane)
        for k in range(config.superlanes):
            column = self._column(m, f"mxm_column_{letter}", k, x, east, west)
            # Results flow inward on aligned streams: their code has few places to name.
            low, inward = exact_log2(RESULT_STREAMS), int(side.inward)
            drives: list[Drive] = []
            for plane in planes:
                valid, dst = (getattr(plane, f"result_{name}_{k}") for name in ("valid", "dst"))
                number = C(0, ID_BITS - low) if config.wide else dst[low:ID_BITS]
                place = Cat(C(0, low), number, C(inward, 1))
                result = getattr(plane, f"result_{k}")
                drives.append(Drive(Mux(valid, RESULT_STREAMS, 0), place, result, RESULT_STREAMS))
                self.errors["mxm"].append(valid & (dst[:low].any() | (dst[ID_BITS] != inward)))
            bus = drive_streams(m, config, drives, f"mxm_{letter}_{k}")
            for name in ("east_valid", "east_data", "west_valid", "west_data"):
                m.d.comb += column[name].eq(getattr(bus, name))
            # Nothing flows in over the edge but what the planes drive: no choice is needed.
            way = side.inward.name.lower()
            driven = getattr(bus, f"{way}_data")
            every = RESULT_STREAMS if config.wide else config.streams
            m.d.comb += column[f"{way}_in"].eq(driven[: len(driven) // config.streams * every])
            self.errors["mxm"].append(bus.double | bus.beyond)
            outward = column[side.outward.name.lower()]
            for plane in planes:
                m.d.comb += getattr(plane, f"stream_{k}").eq(outward)
