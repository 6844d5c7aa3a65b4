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
