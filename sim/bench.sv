// The chip under test: its clock, and a clock for the host that stands still while it runs.
//
// So nothing outside the chip wakes during a run, and the simulation is as fast as the chip.

module bench;
  reg clk = 0, rst = 1;
  wire running;
  always #1 clk = !clk;

  reg  [11:0] s_axil_awaddr = 0, s_axil_araddr = 0;
  reg  [ 2:0] s_axil_awprot = 0, s_axil_arprot = 0;
  reg  [31:0] s_axil_wdata = 0;
  reg  [ 3:0] s_axil_wstrb = 0;
  reg         s_axil_awvalid = 0, s_axil_wvalid = 0, s_axil_bready = 0;
  reg         s_axil_arvalid = 0, s_axil_rready = 0;
  wire        s_axil_awready, s_axil_wready, s_axil_bvalid, s_axil_arready, s_axil_rvalid;
  wire [ 1:0] s_axil_bresp, s_axil_rresp;
  wire [31:0] s_axil_rdata;

  // Changes while clk is low, so that host_clk has whole pulses only.
  reg idle = 1;
  always @(negedge clk) idle <= !running;
  wire host_clk = clk && idle;

  waterclock chip (.*);

  always @(negedge running) if (waterclock_sim::trace != 0) $fflush(waterclock_sim::trace);
endmodule
