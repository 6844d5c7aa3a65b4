// Stops the clock of logic that has nothing to do.
//
// The registers behind it have enables of their own, so the gate changes no result. It makes a
// simulator skip what is idle; on an FPGA it is a wire. en is wanted for the coming rising edge
// and must come from registers of the same clock.

/* verilator lint_off DECLFILENAME */  // the emitted Verilog shares one name space
module waterclock_clock_gate (
    input  wire clk,
    input  wire en,
    output wire gated
);

`ifdef SIMULATION
  reg open = 0;
  always @(negedge clk) open <= en;
  assign gated = clk & open;
`else
  assign gated = clk;
  wire unused = &{1'b0, en};
`endif

endmodule

// Keeps the operands of combinational logic that has nothing to do.
//
// In simulation d passes in the middle of a cycle in which en is high, and is held from then on:
// what depends on q alone is evaluated in such cycles only. On an FPGA it is a wire. d must come
// from registers of clk; en has to be high until d is worth nothing.

module waterclock_operand_gate #(
    parameter WIDTH = 1
) (
    input  wire             clk,
    input  wire             en,
    input  wire [WIDTH-1:0] d,
    output wire [WIDTH-1:0] q
);

`ifdef SIMULATION
  reg [WIDTH-1:0] held = 0;
  wire tick = ~clk & en;
  always @(posedge tick) held <= d;
  assign q = held;
`else
  assign q = d;
  wire unused = &{1'b0, clk, en};
`endif

endmodule

// Conditions under which something is looked at.
//
// Where nobody looks nothing has to be worked out: that spares a simulator work. On an FPGA it
// spares nothing, and would have to be brought to thousands of registers and tables.

module waterclock_needed #(
    parameter WIDTH = 1
) (
    input  wire [WIDTH-1:0] d,
    output wire [WIDTH-1:0] q
);

`ifdef SIMULATION
  assign q = d;
`else
  assign q = {WIDTH{1'b1}};
  wire unused = &{1'b0, d};
`endif

endmodule
