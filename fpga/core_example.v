// Waterclock as a core: runs the program that its memories hold, again and again.
//
// The core is what `waterclock verilog --preset nano` writes, its memories filled at power-on or
// by whoever has the bus. This manager writes a register of the AXI4-Lite port, or reads one:
//
//   START <- 0, CONTROL <- launch; then STATUS until `done`, or `error`, which ends it.
//
// Offsets and bits are those of docs/host.md.

/* verilator lint_off DECLFILENAME */  // the emitted Verilog shares one name space
module core_example (
    input  wire clk,
    input  wire rst,
    output wire running,  // a program is under way
    output reg  failed,   // it broke a promise
    output reg  [31:0] runs
);

  localparam CONTROL = 12'h010, START = 12'h014, STATUS = 12'h018;
  localparam LAUNCH = 32'h1;
  localparam DONE = 2, ERROR = 3;  // bits of STATUS

  reg [1:0] step;  // 0: START, 1: CONTROL, 2: STATUS, 3: failed
  wire writes = step < 2;
  reg sent_address, sent_data;

  wire awready, wready, bvalid, arready, rvalid, broken;
  wire [1:0] bresp, rresp;
  wire [31:0] rdata;
  wire awvalid = writes & ~sent_address;
  wire wvalid = writes & ~sent_data;
  wire arvalid = (step == 2) & ~sent_address;
  wire refused = bvalid & (bresp != 0) | rvalid & (rresp != 0);

  always @(posedge clk)
    if (rst) begin
      step <= 0;
      runs <= 0;
      {sent_address, sent_data, failed} <= 0;
    end else begin
      sent_address <= sent_address | (awvalid & awready) | (arvalid & arready);
      sent_data <= sent_data | (wvalid & wready);
      if (bvalid | rvalid) {sent_address, sent_data} <= 0;
      if (bvalid) step <= step + 1;
      if (rvalid & rdata[DONE]) begin
        step <= 0;
        runs <= runs + 1;
      end
      if (refused | broken | rvalid & rdata[ERROR]) begin
        step   <= 3;
        failed <= 1;
      end
    end

  wire unused = &{1'b0, rdata};

  waterclock core (
    .clk(clk),
    .rst(rst),
    .running(running),
    .error(broken),
    .s_axil_awaddr(step == 0 ? START : CONTROL),
    .s_axil_awprot(3'b000),
    .s_axil_awvalid(awvalid),
    .s_axil_awready(awready),
    .s_axil_wdata(step == 0 ? 32'h0 : LAUNCH),
    .s_axil_wstrb(4'b1111),
    .s_axil_wvalid(wvalid),
    .s_axil_wready(wready),
    .s_axil_bresp(bresp),
    .s_axil_bvalid(bvalid),
    .s_axil_bready(1'b1),
    .s_axil_araddr(STATUS),
    .s_axil_arprot(3'b000),
    .s_axil_arvalid(arvalid),
    .s_axil_arready(arready),
    .s_axil_rdata(rdata),
    .s_axil_rresp(rresp),
    .s_axil_rvalid(rvalid),
    .s_axil_rready(1'b1)
  );

endmodule
