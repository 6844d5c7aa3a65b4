// Two banks as one memory with a read port and a write port: what the block RAM of an FPGA has.
//
// The upper address bit is the bank. The ports never meet in one bank, so what a read gives in the
// cycle of a write to its row does not matter. rdata holds the word read last.
//
// In simulation each bank is preloaded and traced as the waterclock_sram of number id, or id + 1
// for the upper one: see sram.v.

/* verilator lint_off DECLFILENAME */  // the emitted Verilog shares one name space
module waterclock_sram_two_port #(
    parameter WIDTH = 8,
`ifndef SIMULATION
    parameter INIT  = "",  // file for $readmemh: what an FPGA's memory holds at power-on
`endif
    parameter DEPTH = 16
) (
    input  wire                     clk,
    input  wire                     read,
    input  wire [$clog2(DEPTH)-1:0] read_addr,
    output reg  [        WIDTH-1:0] rdata,
    input  wire                     write,
    input  wire [$clog2(DEPTH)-1:0] write_addr,
    input  wire [        WIDTH-1:0] wdata,
    input  wire [             15:0] id           // names the instance; a constant, even
);

  (* ram_style = "block", no_rw_check *) reg [WIDTH-1:0] words[0:DEPTH-1];

`ifndef SIMULATION

  generate
    if (INIT != "") begin : filled
      initial $readmemh(INIT, words);
    end
  endgenerate

  always @(posedge clk) begin
    if (write) words[write_addr] <= wdata;
    if (read) rdata <= words[read_addr];
  end

  wire unused = &{1'b0, id};

`else

  localparam HALF = DEPTH / 2;

  bit loaded;
  bit [1:0] traced;
  int file;

  initial for (int row = 0; row < DEPTH; row++) words[row] = '0;

  always @(posedge clk)
    if (read || write || !loaded) begin
      if (!loaded) begin
        loaded = 1;
        traced = {2{waterclock_sim::all}};
        for (int bank = 0; bank < 2; bank++)
          if (waterclock_sim::directory != "") begin
            file = $fopen($sformatf("%s/%0d.bin", waterclock_sim::directory, 32'(id) + bank), "rb");
            if (file != 0) begin
              void'($fread(words, file, bank * HALF, HALF));
              $fclose(file);
            end
            file = $fopen($sformatf("%s/%0d.watch", waterclock_sim::directory, 32'(id) + bank), "r");
            if (file != 0) begin
              traced[bank] = waterclock_sim::trace != 0;
              $fclose(file);
            end
          end
      end
      if (read) rdata <= words[read_addr];
      if (write) begin
        words[write_addr] <= wdata;
        if (traced[write_addr >= HALF])
          $fwrite(waterclock_sim::trace, "%0d %0d %0d %h\n", $time / waterclock_sim::period,
                  32'(id) + write_addr / HALF, write_addr % HALF, wdata);
      end
    end

`endif

endmodule
