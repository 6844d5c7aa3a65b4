// The chip under test, and its clock: the host's between runs, its own during one.
//
// The bus model in Python wakes at every edge of host_clk, which stands still while fast is high;
// then the chip clocks itself until the run ends, and the simulation is as fast as the chip.

module bench;
  reg host_clk = 0, run_clk = 0, fast = 0, rst = 1;
  wire clk = host_clk | run_clk;
  wire running;

  reg  [11:0] s_axil_awaddr = 0, s_axil_araddr = 0;
  reg  [ 2:0] s_axil_awprot = 0, s_axil_arprot = 0;
  reg  [31:0] s_axil_wdata = 0;
  reg  [ 3:0] s_axil_wstrb = 0;
  reg         s_axil_awvalid = 0, s_axil_wvalid = 0, s_axil_bready = 0;
  reg         s_axil_arvalid = 0, s_axil_rready = 0;
  wire        s_axil_awready, s_axil_wready, s_axil_bvalid, s_axil_arready, s_axil_rvalid;
  wire [ 1:0] s_axil_bresp, s_axil_rresp;
  wire [31:0] s_axil_rdata;

  waterclock chip (.*, .error());

  always @(posedge fast)
    while (fast && running) begin
      #(`HALF_CYCLE) run_clk = 1;
      #(`HALF_CYCLE) run_clk = 0;
    end

  // The reader of the trace looks at it after each run, whose last writes are still on their way
  // to the upper superlanes, of which there are 32 at most.
  always @(negedge running) begin
    repeat (32) @(posedge clk);
    if (waterclock_sim::trace != 0) $fflush(waterclock_sim::trace);
  end
endmodule
