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
    parameter REST  = "",  // the same for words beyond the largest power of two
`endif
    parameter DEPTH = 16
) (
    input  wire                     clk,
    input  wire                     read,
    input  wire [$clog2(DEPTH)-1:0] read_addr,
    output wire [        WIDTH-1:0] rdata,
    input  wire                     write,
    input  wire [$clog2(DEPTH)-1:0] write_addr,
    input  wire [        WIDTH-1:0] wdata,
    input  wire [             15:0] id           // names the instance; a constant, even
);

`ifndef SIMULATION

  // Block RAMs can be as deep as any power of two that we need: those of the first WHOLE words are,
  // side by side, so that no choice follows them.
  localparam BITS = $clog2(DEPTH);
  localparam WHOLE = DEPTH == 1 << BITS ? DEPTH : 1 << BITS - 1;

  generate
    if (WHOLE == DEPTH) begin : whole
      waterclock_block_ram #(WIDTH, INIT, DEPTH)
          ram (clk, read, read_addr, rdata, write, write_addr, wdata);
    end else begin : parts
      localparam MORE = $clog2(DEPTH - WHOLE);
      wire [WIDTH-1:0] low_data, high_data;
      reg high;
      always @(posedge clk) if (read) high <= read_addr[BITS-1];
      assign rdata = high ? high_data : low_data;
      waterclock_block_ram #(WIDTH, INIT, WHOLE)
          low (clk, read, read_addr[BITS-2:0], low_data,
               write & ~write_addr[BITS-1], write_addr[BITS-2:0], wdata);
      waterclock_block_ram #(WIDTH, REST, DEPTH - WHOLE)
          rest (clk, read, read_addr[MORE-1:0], high_data,
                write & write_addr[BITS-1], write_addr[MORE-1:0], wdata);
    end
  endgenerate

  wire unused = &{1'b0, id};

`else

  reg [WIDTH-1:0] words[0:DEPTH-1];
  reg [WIDTH-1:0] found;
  assign rdata = found;

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
      if (read) found <= words[read_addr];
      if (write) begin
        words[write_addr] <= wdata;
        if (traced[write_addr >= HALF])
          $fwrite(waterclock_sim::trace, "%0d %0d %0d %h\n", $time / waterclock_sim::period,
                  32'(id) + write_addr / HALF, write_addr % HALF, wdata);
      end
    end

`endif

endmodule

`ifndef SIMULATION

module waterclock_block_ram #(
    parameter WIDTH = 8,
    parameter INIT  = "",
    parameter DEPTH = 16
) (
    input  wire                     clk,
    input  wire                     read,
    input  wire [$clog2(DEPTH)-1:0] read_addr,
    output reg  [        WIDTH-1:0] rdata,
    input  wire                     write,
    input  wire [$clog2(DEPTH)-1:0] write_addr,
    input  wire [        WIDTH-1:0] wdata
);

  (* ram_style = "block", no_rw_check *) reg [WIDTH-1:0] words[0:DEPTH-1];

  generate
    if (INIT != "") begin : filled
      initial $readmemh(INIT, words);
    end
  endgenerate

  always @(posedge clk) begin
    if (write) words[write_addr] <= wdata;
    if (read) rdata <= words[read_addr];
  end

endmodule

`endif
